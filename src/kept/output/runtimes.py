"""Limits of other runtimes: forms of an output that they refuse or compute wrongly, and the form that they accept.

Only what `make compat` runs is said here; it fails where a note and a measurement disagree (docs/reference/compat.md).
The exception is our own class, of which no other runtime can know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.spec import Attention, LongRope, Mlp, Proportional, Yarn
from kept.passes.affine_tail import AffineTail

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.passes.plan import Plan

TRANSFORMERS_4 = ("transformers 4.45", "transformers 4.57")

LLAMA_CPP = ("llama.cpp f32", "llama.cpp bf16", "llama.cpp f16")
"""Named by the number format of the GGUF file."""

RUNTIMES = (*TRANSFORMERS_4, "transformers 5", *LLAMA_CPP)


@dataclass(frozen=True)
class Note:
    """A limit of some runtimes: the reason, and the form that they accept."""

    runtimes: tuple[str, ...]
    why: str
    form: str

    def __str__(self) -> str:
        """One line."""
        return f"{', '.join(_shortened(self.runtimes))}: {self.why}; {self.form}"


def notes(plan: Plan) -> tuple[Note, ...]:
    """The notes on a plan's result. Reads no weights; says nothing of runtimes that were never run."""
    return tuple(note for applies, note in RULES if applies(plan))


def _scaled(kind: type[object]) -> Callable[[Plan], bool]:
    def applies(plan: Plan) -> bool:
        return any(isinstance(rope.scaling, kind) for rope in plan.program.spec.ropes())

    return applies


def _scaled_proportion(plan: Plan) -> bool:
    """Whether a proportional rotation's frequencies are divided by a factor, for which `llama3` has no place."""
    scalings = [rope.scaling for rope in plan.program.spec.ropes()]
    return any(isinstance(scaling, Proportional) and scaling.factor != 1 for scaling in scalings)


def _proportional(plan: Plan) -> bool:
    return _scaled(Proportional)(plan) and not _scaled_proportion(plan)


def _other_activation(plan: Plan) -> bool:
    return any(mlp.gated and mlp.activation != "silu" for _, mlp in plan.program.spec.operations(Mlp))


def _tail(plan: Plan) -> bool:
    return any(isinstance(step.rewrite, AffineTail) for step in plan.steps)


def _slides(plan: Plan) -> bool:
    """Return whether the target has a sliding window shorter than its context."""
    spec = plan.program.spec
    return plan.target in {"mistral", "qwen2"} and any(
        one.window is not None and one.window < spec.context for _, one in spec.operations(Attention)
    )


def _slides_in_qwen2(plan: Plan) -> bool:
    return plan.target == "qwen2" and _slides(plan)


def _own_class(plan: Plan) -> bool:
    return plan.target == "kept"


def _neox(plan: Plan) -> bool:
    return plan.target == "gpt_neox"


NO_FORM = "no form that it takes is known"
SHORTER = "it takes a --context no longer than the window"

CODE = Note(
    ("transformers",),
    "runs it by the code in the output",
    "it takes trust_remote_code=True, or import kept first",
)
OLD_CACHE = Note(TRANSFORMERS_4[:1], "its cache classes are older than that code", "4.57 takes it as it is")
NO_CLASS = Note(("vLLM", "llama.cpp"), "has no class for it", "it takes the outputs for stock families (--to)")

RULES: tuple[tuple[Callable[[Plan], bool], Note], ...] = (
    (_proportional, Note(TRANSFORMERS_4, "has no rope type `proportional`", "it takes --rope llama3")),
    (_proportional, Note(LLAMA_CPP, "rotates heads as a whole, after a warning", "it takes --rope llama3")),
    (_scaled_proportion, Note(TRANSFORMERS_4, "has no rope type `proportional`", NO_FORM)),
    (_scaled_proportion, Note(LLAMA_CPP, "rotates heads as a whole, after a warning", NO_FORM)),
    (_scaled(Yarn), Note(TRANSFORMERS_4[:1], "reads YaRN in another way", "4.57 takes it as it is")),
    (_scaled(LongRope), Note(TRANSFORMERS_4[:1], "reads LongRoPE in another way", "4.57 takes it as it is")),
    (_scaled(LongRope), Note(LLAMA_CPP, "leaves out a Llama's LongRoPE divisors without a word", NO_FORM)),
    (_other_activation, Note(LLAMA_CPP, "computes SiLU in every gated MLP, whatever the config says", NO_FORM)),
    (_slides, Note(LLAMA_CPP, "attends to everything, past a sliding window too", SHORTER)),
    (_slides_in_qwen2, Note(TRANSFORMERS_4[:1], "attends past Qwen2's sliding window", "4.57 takes it as it is")),
    (_neox, Note(LLAMA_CPP, "its converter reads no GPT-NeoX beside transformers 5", NO_FORM)),
    (_own_class, CODE),
    (_own_class, OLD_CACHE),
    (_own_class, NO_CLASS),
    (_tail, Note(LLAMA_CPP[2:], "float16 cannot hold the tail's constants", "it takes bf16, f32 or --final-bias drop")),
)
"""Conditions on a plan with their notes. Forms and figures are in docs/reference/compat.md."""


def _shortened(runtimes: tuple[str, ...]) -> tuple[str, ...]:
    """`llama.cpp` where all of its number formats are meant, `transformers 4` where all of its versions are."""
    if runtimes == LLAMA_CPP:
        return ("llama.cpp",)
    return ("transformers 4",) if runtimes == TRANSFORMERS_4 else runtimes

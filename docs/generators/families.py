"""Reference page of the families: what each becomes, by which passes, and where an exact promise holds."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kept.errors import Refusal
from kept.families import FAMILIES, TARGETS
from kept.families.lengths import domain
from kept.ir.program import Program
from kept.ir.serialise import to_json
from kept.ir.slots import slots
from kept.ir.spec import Attention, Dynamic, LatentAttention, LongRope
from kept.ir.tensors import zeros
from kept.passes.legalize import legalise, stand_ins
from kept.passes.map_spec import map_operations
from kept.passes.reasons import WAY_OUT
from kept.passes.rules import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec import Scaling, Spec

SIZES = {
    "intermediate_size": 64,
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}

WHOLE_HEADS = {"head_dim": 8}

LATENT = {"kv_lora_rank": 16, "q_lora_rank": None, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}

DENSE_GRANITE = {"num_local_experts": 0, "layer_types": ["attention"] * 2, "position_embedding_type": "rope"}


def ranks() -> dict[str, Any]:
    """The config of our own class for latent attention whose rank differs by layer."""
    spec = FAMILIES["deepseek_v3"].read_config({**SIZES, "first_k_dense_replace": 2, **LATENT})
    lower = replace(spec, layers=(spec.layers[0], *truncated(spec).layers[1:]))
    return {"spec": to_json(lower), "vocab_size": spec.vocabulary}


def truncated(spec: Spec) -> Spec:
    """Return the spec with half the rank in every layer."""
    return map_operations(spec, LatentAttention, lambda one: replace(one, kv_rank=one.kv_rank // 2))


OWN = ranks()

EXAMPLES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("orion", "", {}),
    ("llama", "", {}),
    ("mistral", "no sliding window", {"sliding_window": None}),
    ("mistral", "a sliding window below the context", {"sliding_window": 4096}),
    ("qwen2", "", {}),
    ("stablelm", "sequential residual", {}),
    ("stablelm", "parallel residual", {"use_parallel_residual": True}),
    ("stablelm", "query-key norm", {"qk_layernorm": True}),
    ("starcoder2", "no sliding window", {"sliding_window": None}),
    ("starcoder2", "a sliding window below the context", {"sliding_window": 2048, "max_position_embeddings": 4096}),
    ("gpt2", "", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    ("qwen3", "", {}),
    ("gemma", "", {}),
    ("gemma2", "", {"num_key_value_heads": 2}),
    ("phi3", "", {"sliding_window": None}),
    ("smollm3", "some layers without rotation", {"num_hidden_layers": 4}),
    ("granite", "", {}),
    ("olmo", "", {}),
    ("olmo2", "", {}),
    ("nemotron", "", {}),
    ("gpt_neox", "sequential residual", {"use_parallel_residual": False}),
    ("gpt_neox", "parallel residual", {}),
    ("phi", "", {}),
    ("cohere", "", {}),
    ("falcon", "", {"new_decoder_architecture": True}),
    ("internlm", "", {}),
    ("internlm2", "", {}),
    ("baichuan", "", {"max_position_embeddings": 4096}),
    ("qwen", "", {"seq_length": 2048, "kv_channels": 8}),
    ("aquila", "", {}),
    ("xverse", "", {}),
    ("exaone", "", {"num_layers": 2}),
    ("deci", "", {"num_key_value_heads_per_layer": [4, 2]}),
    ("minicpm", "", {}),
    ("arcee", "", {}),
    ("jais2", "", {}),
    ("seed_oss", "", {}),
    ("internlm3", "", WHOLE_HEADS),
    ("iquestcoder", "", WHOLE_HEADS),
    ("ernie4_5", "", WHOLE_HEADS),
    ("helium", "", WHOLE_HEADS),
    ("glm", "", {}),
    ("cwm", "", {}),
    ("ministral", "no sliding window", {"sliding_window": None}),
    ("ministral3", "the whole context", {}),
    ("ministral3", "its original context", {"max_position_embeddings": 16384}),
    ("granitemoehybrid", "no experts, no Mamba-2 layers", DENSE_GRANITE),
    ("hyperclovax", "no post-norms", {"use_post_norm": False}),
    ("hyperclovax", "post-norms", {}),
    ("gemma3_text", "", {"num_hidden_layers": 6, "sliding_window": 512}),
    ("deepseek_v3", "dense", {"first_k_dense_replace": 2, **LATENT}),
    ("deepseek_v2", "dense", {"first_k_dense_replace": 2, **LATENT}),
    ("youtu", "", LATENT),
    ("minicpm3", "", LATENT),
    ("kept", "latent attention, a rank per layer", OWN),
)
"""A config of each family, and of each variant that decides what it can become."""


WAYS = (
    ("", Options()),
    ("`--final-bias drop`", Options(final_bias="drop")),
    ("`--norm carried`", Options(norm="carried")),
    ("`--norm opm`", Options(norm="opm")),
)
"""Options of a conversion that are tried for each target, the best first."""


def matrix() -> str:
    """Sources against targets: exact, what else, or refused; and the numbered reasons below."""
    rows = [f"| source | {' | '.join(TARGETS)} |", f"| --- |{' --- |' * len(TARGETS)}"]
    reasons: dict[str, int] = {}
    for name, variant, config in EXAMPLES:
        program = example(name, config)
        cells = [cell(program, target, reasons) for target in TARGETS]
        rows.append(f"| {name}{f', {variant}' if variant else ''} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*rows, "", "Reasons of refusals:", "", *notes])


def example(name: str, config: dict[str, Any]) -> Program:
    """A small program of a family, without values."""
    spec = FAMILIES[name].read_config({**SIZES, **config})
    return Program(spec, {slot: zeros(info.shape, "F32") for slot, info in slots(spec).items()})


def cell(program: Program, target: str, reasons: dict[str, int]) -> str:
    """The best promise with what must be asked for it, or the numbers of the reasons."""
    for asked, options in WAYS:
        try:
            plan = legalise(program, TARGETS[target].violations, options, stand_ins(program.spec))
        except Refusal:
            continue
        return f"{plan.promise}{f' with {asked}' if asked else ''}"
    return f"refused ({', '.join(map(str, sorted(numbers(program, target, reasons))))})"


def numbers(program: Program, target: str, reasons: dict[str, int]) -> set[int]:
    """Why the plain conversion is refused; a reason that is new gets the next number."""
    try:
        legalise(program, TARGETS[target].violations, Options())
    except Refusal as refusal:
        parts = refusal.reasons if refusal.way_out == WAY_OUT else [str(refusal)]
        return {reasons.setdefault(part, len(reasons) + 1) for part in parts}
    raise AssertionError


def page() -> str:
    """Return the page: the matrix, the passes of each exact conversion to the first target, domains of the promises."""
    lines = [
        "# Families: what becomes what",
        "",
        "Generated from the code by `docs/generate.py`.",
        "",
        "Each row is a source, as a `model_type` of transformers or of the family's own code. Each column is a target",
        "(`--to`). A cell is the best promise that a plan can state, with the option that it needs:",
        "",
        "- **exact**: the output computes the same function in real arithmetic.",
        "- **approximate**: the output differs by a small, measured amount.",
        "- **lossy**: the output is a starting point for `kept heal`.",
        "- **refused**: no plan exists. The numbers are the reasons below the table.",
        "",
        matrix(),
        "",
        "## Passes of each exact conversion to Llama",
        "",
        "| source | passes |",
        "| --- | --- |",
        *routes(),
        "",
        *domains(),
        "",
    ]
    return "\n".join(lines)


def routes() -> Iterator[str]:
    """Yield a row for each source that converts exactly to the first target: the passes in order."""
    for name, variant, config in EXAMPLES:
        try:
            plan = legalise(example(name, config), TARGETS["llama"].violations, Options())
        except Refusal:
            continue
        steps = ", ".join(f"[`{step.rewrite.name}`](passes.md#{step.rewrite.name})" for step in plan.steps)
        yield f"| {name}{f', {variant}' if variant else ''} | {steps or 'none: the weights are copied'} |"


ROTATIONS: tuple[tuple[str, Scaling | None], ...] = (
    ("", None),
    ("LongRoPE", LongRope((1.0,) * 4, (2.0,) * 4, 4096, 8.0, 1.25)),
    ("dynamic NTK", Dynamic(2.0, 32768)),
)


def domains() -> Iterator[str]:
    """Yield the lines about the domain of an exact promise: lengths past which the classes of two families differ."""
    yield "## Where a promise holds"
    yield ""
    yield "An exact conversion computes the same function. Past some length the classes of two families may still"
    yield "differ, mostly in how they update the KV cache, and Aquila2's class clips large attention scores. Plan,"
    yield "`kept.json`, model card and report state this domain of the promise. For conversions to Llama:"
    yield ""
    yield from ("| source | rotation | the promise holds |", "| --- | --- | --- |")
    for name, family in FAMILIES.items():
        config = next((config for known, _, config in EXAMPLES if known == name), None)
        if config is None:
            sys.exit(f"docs/generators/families.py: EXAMPLES has no config of {name}; add one")
        for rotation, scaling in ROTATIONS:
            spec = rotated(family.read_config({**SIZES, **config}), scaling)
            found = domain(family, spec, TARGETS["llama"], spec)
            if found and not family.violations(spec):
                yield f"| {name} | {rotation or 'any'} | {found[0]} |"
    yield ""
    yield "Passes restrict the domain further: `limit-context` and `drop-window` to a length, `affine-tail` to dtypes"
    yield "that can hold its constants, `expand-vocab` to the old tokens. [Family rules](family-rules.md) lists how"
    yield "each family's own code differs from Llama."


def rotated(spec: Spec, scaling: Scaling | None) -> Spec:
    """Return the spec with a context of 32,768 and, if its layers have RoPE, the scaling."""
    spec = replace(spec, context=32768)
    if scaling is None:
        return spec
    return map_operations(
        spec, Attention, lambda one: replace(one, rope=one.rope and replace(one.rope, scaling=scaling))
    )

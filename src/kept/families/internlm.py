"""InternLM (the first): Llama with one flag for all four attention biases; its rotation stands under `rotary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.items import DerivedFact, Fixed, Flag, Number, SpecialTokens, as_many_as_queries, first, split_heads
from kept.families.lengths import grown
from kept.families.llama import ATTENTION_BIASES, DECODER, ENTRIES, GATED, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.table import ATTENTION, Family
from kept.ir.facts import at_layer, build
from kept.ir.spec import Dynamic, Rope

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.families.lengths import LengthRule
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec

ELSEWHERE = "this family's rotation stands under rotary"


@dataclass(frozen=True)
class RotarySection:
    """`rotary`: a base, and a type, either `origin` or `dynamic` with a `scaling_factor`. Comes after the context."""

    path: str = f"{ATTENTION}rope"

    def read(self, config: Config, known: Facts) -> Facts:
        """Section to rotation."""
        given = config.section("rotary")
        kind = "dynamic" if given.get("type") is None else given.get("type")
        if kind not in ("origin", "dynamic"):
            raise given.wrong("type", "origin or dynamic")
        factor = given.positive("scaling_factor", 1.0)
        scaling = Dynamic(factor, known["context"]) if kind == "dynamic" else None
        return {self.path: Rope(given.positive("base", 10_000.0), known[f"{ATTENTION}head_dim"], scaling=scaling)}

    def write(self, table: Facts) -> dict[str, Any]:
        """Rotation to section."""
        if first(table, self.path) is None:
            return {"rotary": None}
        rope: Rope = build(Rope, self.path, at_layer(table, 0))
        if not isinstance(rope.scaling, Dynamic):
            return {"rotary": {"base": rope.theta, "type": "origin"}}
        return {"rotary": {"base": rope.theta, "type": "dynamic", "scaling_factor": rope.scaling.factor}}


def rerotating_rule(spec: Spec) -> LengthRule | None:
    """Return the rule of InternLM: it caches unrotated keys and rotates all of them with the theta of each pass."""
    return grown(spec, "rotates all cached keys again at each token", "generation")


INTERNLM = Family(
    name="internlm",
    architecture="InternLMForCausalLM",
    items=(
        *DECODER[:5],
        DerivedFact(f"{ATTENTION}kv_heads", as_many_as_queries),
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        RotarySection(),
        *(Fixed(key, value=None, why=ELSEWHERE) for key in ("rope_scaling", "rope_parameters")),
        Flag("bias", ATTENTION_BIASES, default=True),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=rerotating_rule,
)

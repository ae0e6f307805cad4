"""InternLM (the first): Llama with one flag for all four attention biases, and RoPE under the key `rotary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import MULTI_HEAD, WIDTH_OVER_HEADS, Fixed, Flag, SpecialTokens
from kept.families.lengths import grown
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, first_value
from kept.families.table import Family
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

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the rotation."""
        section = config.section("rotary")
        kind = "dynamic" if section.get("type") is None else section.get("type")
        if kind not in ("origin", "dynamic"):
            raise section.wrong("type", "origin or dynamic")
        factor = section.positive("scaling_factor", 1.0)
        scaling = Dynamic(factor, facts["context"]) if kind == "dynamic" else None
        return {self.path: Rope(section.positive("base", 10_000.0), facts[f"{ATTENTION}head_dim"], scaling=scaling)}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the section."""
        if first_value(facts, self.path) is None:
            return {"rotary": None}
        rope: Rope = build(Rope, self.path, at_layer(facts, 0))
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
        *sizes(),
        *attention(kv_heads=MULTI_HEAD, head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        *rms_norms(),
        RotarySection(),
        *(Fixed(key, value=None, why=ELSEWHERE) for key in ("rope_scaling", "rope_parameters")),
        Flag("bias", ATTENTION_BIASES, default=True),
        tied_head(),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=rerotating_rule,
)

"""DeciLM 6B and 7B (`model_type` deci): Llama whose layers have different numbers of key-value heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import PUBLISHED_SCALINGS, WIDTH_OVER_HEADS, Fixed, Rotary, SpecialTokens
from kept.families.lengths import published_rule
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, layer_values
from kept.families.table import Family
from kept.ir.facts import across

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts


@dataclass(frozen=True)
class KeyValueHeadsPerLayer:
    """A list with the number of key-value heads of each layer. Comes after depth and query heads."""

    key: str = "num_key_value_heads_per_layer"
    path: str = f"{ATTENTION}kv_heads"

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return one fact a layer. Raises CheckpointError unless each number divides the query heads."""
        values, depth, heads = config.get(self.key), facts["depth"], facts[f"{ATTENTION}heads"]
        if values is None:
            raise CheckpointError(f"{config.where}: has no {self.key}")
        fits = isinstance(values, list) and len(values) == depth
        if not fits or not all(type(value) is int and value > 0 and heads % value == 0 for value in values):
            raise config.wrong(self.key, f"a list of {depth} divisors of the {heads} query heads")
        return {self.path: across(values)}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the list."""
        return {self.key: [*layer_values(facts, self.path)]}


DECI = Family(
    name="deci",
    architecture="DeciLMForCausalLM",
    items=(
        *sizes(),
        *attention(kv_heads=KeyValueHeadsPerLayer(), head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(scalings=PUBLISHED_SCALINGS),
        Fixed("attention_bias", value=False, why="the family's own code never has attention biases"),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=published_rule,
)

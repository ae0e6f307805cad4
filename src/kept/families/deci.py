"""DeciLM 6B and 7B (`model_type` deci): Llama whose layers have different numbers of key-value heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.items import DerivedFact, Fixed, Flag, Number, SpecialTokens, split_heads
from kept.families.lengths import published_rule
from kept.families.llama import DECODER, ENTRIES, GATED, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import PUBLISHED, Rotary
from kept.families.table import ATTENTION, Family
from kept.ir.facts import PerLayer

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts


@dataclass(frozen=True)
class KeyValueHeadsPerLayer:
    """A list of one number of key-value heads a layer. Comes after depth and query heads."""

    key: str = "num_key_value_heads_per_layer"
    path: str = f"{ATTENTION}kv_heads"

    def read(self, config: Config, known: Facts) -> Facts:
        """List to facts."""
        values, depth, heads = config.get(self.key), known["depth"], known[f"{ATTENTION}heads"]
        if values is None:
            raise CheckpointError(f"{config.where}: has no {self.key}")
        fits = isinstance(values, list) and len(values) == depth
        if not fits or not all(type(value) is int and value > 0 and heads % value == 0 for value in values):
            raise config.wrong(self.key, f"a list of {depth} divisors of the {heads} query heads")
        return {self.path: values[0] if len(set(values)) == 1 else PerLayer(tuple(values))}

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to list."""
        value = table.get(self.path)
        return {self.key: [*value.values] if isinstance(value, PerLayer) else [value] * table["depth"]}


DECI = Family(
    name="deci",
    architecture="DeciLMForCausalLM",
    items=(
        *DECODER[:5],
        KeyValueHeadsPerLayer(),
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        Rotary(kinds=PUBLISHED),
        Fixed("attention_bias", value=False, why="the family's own code never has attention biases"),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=published_rule,
)

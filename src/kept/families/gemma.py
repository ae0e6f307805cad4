"""Gemma: norms add 1 to stored gains, embeddings times the root of the width, heads of 256, GELU gates, a tied head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import ACTIVATIONS, Choice, DerivedFact, Fixed, Flag, Rotary, Size, SpecialTokens
from kept.families.parts import attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, MLP
from kept.families.table import Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

GEMMA_HEAD_DIM = Size("head_dim", f"{ATTENTION}head_dim", default=256)

ROOT_OF_WIDTH = DerivedFact("embedding_multiplier", lambda facts: float(facts["width"]) ** 0.5)
"""The multiplier of embeddings. The classes in transformers round it to the dtype that they run in."""

CAUSAL = Fixed("use_bidirectional_attention", value=False, why="attention to later tokens is not supported")

GELU_GATES = tuple((name, "gelu_tanh" if name == "gelu" else value) for name, value in ACTIVATIONS)
"""Names of activations; the first releases call the tanh form `gelu`."""


@dataclass(frozen=True)
class GemmaActivation(Choice):
    """`hidden_act`, which transformers 5 reads, and `hidden_activation`, which 4 prefers: they must agree."""

    also: str = "hidden_activation"

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact. Raises CheckpointError if the keys differ."""
        found = super().read(config, facts)
        other = config.get(self.also)
        if other is not None and (not isinstance(other, str) or dict(self.names).get(other) != found[self.path]):
            raise config.wrong(self.also, f"what {self.key} is, or null")
        return found

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return both keys."""
        keys = super().write(facts)
        return {**keys, self.also: keys[self.key]}


GEMMA = Family(
    name="gemma",
    architecture="GemmaForCausalLM",
    items=(
        *sizes(default_context=8192),
        *attention(head_dim=GEMMA_HEAD_DIM),
        ROOT_OF_WIDTH,
        *mlp(GemmaActivation("hidden_act", f"{MLP}activation", GELU_GATES, default="gelu_pytorch_tanh")),
        *rms_norms(offset=1.0),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        CAUSAL,
        tied_head(default=True),
        SpecialTokens(bos=2, eos=1, pad=0),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)

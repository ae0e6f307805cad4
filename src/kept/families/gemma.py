"""Gemma: gains stored less 1, embeddings times the root of the width, heads of 256, GELU gates, a tied head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.items import (
    ACTIVATIONS,
    Always,
    Choice,
    DerivedFact,
    Fixed,
    Flag,
    Number,
    Size,
    SpecialTokens,
)
from kept.families.llama import (
    ATTENTION_BIASES,
    DECODER,
    ENTRIES,
    NORM_EPS,
    OFFSET_GAINS,
    RMS_NORMS,
    ROTARY_BUFFERS,
)
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, MLP, Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

ROOT_OF_WIDTH = DerivedFact("embedding_multiplier", lambda known: float(known["width"]) ** 0.5)
"""The stock classes round it to the dtype that they run in."""

CAUSAL = Fixed("use_bidirectional_attention", value=False, why="tokens that see later ones are not supported")

GELU_GATES = tuple((word, "gelu_tanh" if word == "gelu" else ours) for word, ours in ACTIVATIONS)
"""What the first releases call `gelu` is the tanh form."""


@dataclass(frozen=True)
class Activation(Choice):
    """`hidden_act`, which transformers 5 reads, and `hidden_activation`, which 4 prefers: they must agree."""

    also: str = "hidden_activation"

    def read(self, config: Config, known: Facts) -> Facts:
        """Words to fact."""
        found = super().read(config, known)
        other = config.get(self.also)
        if other is not None and (not isinstance(other, str) or dict(self.words).get(other) != found[self.path]):
            raise config.wrong(self.also, f"what {self.key} is, or null")
        return found

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to words."""
        said = super().write(table)
        return {**said, self.also: said[self.key]}


GEMMA = Family(
    name="gemma",
    architecture="GemmaForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=8192),
        *DECODER[4:],
        Size("head_dim", f"{ATTENTION}head_dim", default=256),
        ROOT_OF_WIDTH,
        Size("intermediate_size", f"{MLP}size"),
        Activation("hidden_act", f"{MLP}activation", GELU_GATES, default="gelu_pytorch_tanh"),
        Always(((f"{MLP}gated", True),)),
        RMS_NORMS,
        OFFSET_GAINS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        CAUSAL,
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=2, eos=1, pad=0),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
)

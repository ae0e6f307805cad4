"""Baichuan and Baichuan2, 7B: Llama with query, key and value fused; the second generation normalises its head.

The generations share their names and differ in nothing that a config must say. The second is known by its key
`z_loss_weight`, which every config of its class holds and none of the first's, or by its vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.items import Always, DerivedFact, Flag, Number, SpecialTokens, as_many_as_queries, split_heads
from kept.families.llama import DECODER, ENTRIES, GATED, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import FixedRotary
from kept.families.table import ATTENTION, Family, linear

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

SECOND_VOCABULARY = 125696
"""Tokens of Baichuan2 as released."""

WIDTH_OF_13B = 5120


@dataclass(frozen=True)
class OnlyRotary:
    """The 13B models share the name and have no rotation. Comes before the context and after the width."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Refuse them: they state no max_position_embeddings."""
        if config.get("max_position_embeddings") is None or known["width"] == WIDTH_OF_13B:
            missing = config.get("max_position_embeddings") is None
            sign = "has no max_position_embeddings" if missing else f"hidden_size is {WIDTH_OF_13B}"
            raise CheckpointError(
                f"{config.where}: {sign}, so this is a Baichuan 13B, which knows positions by ALiBi, a bias on the "
                "scores that no rotation can express; only the 7B models are read"
            )
        return {}

    def write(self, table: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """The context's own item says it."""
        return {}


@dataclass(frozen=True)
class BaichuanGeneration:
    """Whether rows of the head are divided by their length when the model runs. Comes after the vocabulary."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Known by the key or the vocabulary of the second generation."""
        second = config.get("z_loss_weight") is not None or known["vocabulary"] == SECOND_VOCABULARY
        return {"head.normalised": second}

    def write(self, table: Facts) -> dict[str, Any]:
        """The key, or the name of the first generation's class."""
        if table["head.normalised"]:
            return {"z_loss_weight": 0}
        return {"architectures": ["BaiChuanForCausalLM"]}


@dataclass(frozen=True)
class Tie(Flag):
    """`tie_word_embeddings`. Comes after the generation."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to fact. Raises CheckpointError if the class would change the embedding at its first pass."""
        found = super().read(config, known)
        if known["head.normalised"] and found["head.tied"]:
            raise config.wrong(self.key, "false: Baichuan 2 normalises the head in place, and with it the embedding")
        return found


BAICHUAN = Family(
    name="baichuan",
    architecture="BaichuanForCausalLM",
    items=(
        *DECODER[:3],
        OnlyRotary(),
        *DECODER[3:5],
        DerivedFact(f"{ATTENTION}kv_heads", as_many_as_queries),
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        Always(((f"{ATTENTION}fused", True),)),
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        FixedRotary(),
        BaichuanGeneration(),
        Tie("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=(
        *(entry for entry in ENTRIES if not entry.slot.startswith(tuple(f"layers.{{i}}.mixer.{n}." for n in "qkv"))),
        *linear("layers.{i}.mixer.qkv", "model.layers.{i}.self_attn.W_pack"),
    ),
    ignored=ROTARY_BUFFERS,
    stock=False,
    also=("BaiChuanForCausalLM",),
)

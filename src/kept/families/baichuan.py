"""Baichuan and Baichuan2, 7B: Llama with query, key and value fused; the second generation normalises its head.

Both generations have the same names, and no config key states the generation. The second is recognised by its key
`z_loss_weight`, which every config of its class has and none of the first's, or by its vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.entries import ROTARY_BUFFERS, fused_attention_entries, llama_entries
from kept.families.items import MULTI_HEAD, WIDTH_OVER_HEADS, FixedRotary, Flag, SpecialTokens
from kept.families.parts import activation, attention, mlp, rms_norms, sizes
from kept.families.table import Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

VOCABULARY_OF_SECOND = 125696
"""Tokens of Baichuan2 as released."""

WIDTH_OF_13B = 5120


@dataclass(frozen=True)
class No13B:
    """A check for the 13B models, which have the same `model_type` and ALiBi instead of RoPE. Comes after the width."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return no facts. Raises CheckpointError for a 13B model: it has no max_position_embeddings."""
        missing = config.get("max_position_embeddings") is None
        if missing or facts["width"] == WIDTH_OF_13B:
            sign = "has no max_position_embeddings" if missing else f"hidden_size is {WIDTH_OF_13B}"
            raise CheckpointError(
                f"{config.where}: {sign}, so this is a Baichuan 13B, with ALiBi, a bias on attention "
                "scores that no rotation can express; only the 7B models are supported"
            )
        return {}

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys: the context's own item writes it."""
        return {}


@dataclass(frozen=True)
class BaichuanGeneration:
    """Whether rows of the head are divided by their length when the model runs. Comes after the vocabulary."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact: true for the key or the vocabulary of the second generation."""
        second = config.get("z_loss_weight") is not None or facts["vocabulary"] == VOCABULARY_OF_SECOND
        return {"head.normalised": second}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key, or the name of the first generation's class."""
        if facts["head.normalised"]:
            return {"z_loss_weight": 0}
        return {"architectures": ["BaiChuanForCausalLM"]}


@dataclass(frozen=True)
class Tie(Flag):
    """`tie_word_embeddings`. Comes after the generation."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact. Raises CheckpointError if the class would change the embedding at its first pass."""
        found = super().read(config, facts)
        if facts["head.normalised"] and found["head.tied"]:
            raise config.wrong(self.key, "false: Baichuan 2 normalises the head in place, and with it the embedding")
        return found


BAICHUAN = Family(
    name="baichuan",
    architecture="BaichuanForCausalLM",
    items=(
        *sizes(),
        No13B(),
        *attention(kv_heads=MULTI_HEAD, head_dim=WIDTH_OVER_HEADS, fused=True),
        *mlp(activation("silu")),
        *rms_norms(),
        FixedRotary(),
        BaichuanGeneration(),
        Tie("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=llama_entries(attention=fused_attention_entries(qkv="W_pack")),
    ignored=ROTARY_BUFFERS,
    stock=False,
    also=("BaiChuanForCausalLM",),
)

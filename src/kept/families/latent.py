"""The parts of a config and the entries of latent attention, which DeepSeek and its relatives share.

The classes differ in the pairs that rotate and in their defaults. All of them have as many heads of keys and values as
of queries, a norm on each latent whose epsilon is 1e-6 whatever the config says, and biases on `q_a`, `kv_a` and `o`
only, all or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import SELF_ATTENTION, linear, norm
from kept.families.items import DerivedFact, Size
from kept.families.paths import LATENT, first_value
from kept.ir.facts import build
from kept.ir.spec import Norm, Rope, Yarn

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.families.entries import Entries
    from kept.families.table import Item
    from kept.ir.facts import Facts

LATENT_EPS = 1e-6
"""Epsilon of the norms of latents: the classes do not pass them the config's."""

BIASES = tuple(f"{LATENT}{name}_bias" for name in ("q", "kv", "o"))


@dataclass(frozen=True)
class QueryRank:
    """The rank of the queries' latent; null: queries are projected directly. Such queries have no norm."""

    default: int
    key: str = "q_lora_rank"

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Return the rank and the norm of the latent."""
        if config.states(self.key) and config.get(self.key) is None:
            return {f"{LATENT}q_rank": None, f"{LATENT}q_norm": None}
        return {f"{LATENT}q_rank": config.size(self.key, self.default), f"{LATENT}q_norm": Norm("rms", LATENT_EPS)}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {self.key: first_value(facts, f"{LATENT}q_rank")}


@dataclass(frozen=True)
class EqualHeads:
    """The number of heads of keys and values. The classes expand the latent to a key for each query head."""

    key: str = "num_key_value_heads"

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact. Raises CheckpointError for another number than that of the query heads."""
        heads = facts[f"{LATENT}heads"]
        if config.get(self.key) not in (None, heads):
            raise config.wrong(self.key, f"{heads}, as num_attention_heads: the class makes a key for each query head")
        return {f"{LATENT}kv_heads": heads}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key, because the classes have defaults that do not follow the query heads."""
        return {self.key: first_value(facts, f"{LATENT}heads")}


@dataclass(frozen=True)
class ComputedSizes:
    """Sizes that the classes compute, and that a config may repeat. Comes after the sizes of heads."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return no facts. Raises CheckpointError for other values, which some classes would use."""
        rotary, whole = facts[f"{LATENT}rope_dim"], facts[f"{LATENT}rope_dim"] + facts[f"{LATENT}nope_dim"]
        sizes = (("head_dim", rotary, ""), ("qk_head_dim", whole, "qk_nope_head_dim and "))
        for key, value, besides in sizes:
            if config.get(key) not in (None, value):
                raise config.wrong(key, f"{value}, which the class computes from {besides}qk_rope_head_dim")
        return {}

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys."""
        return {}


@dataclass(frozen=True)
class LatentBiases:
    """Biases of `q_a`, `kv_a` and `o`. Queries without a rank have none. Comes after the query rank."""

    key: str = "attention_bias"

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the facts."""
        biased = config.flag(self.key, default=False)
        with_rank = biased and facts[f"{LATENT}q_rank"] is not None
        return {**dict.fromkeys(BIASES, biased), f"{LATENT}q_bias": with_rank}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return true if there is any of the biases."""
        return {self.key: any(first_value(facts, path) for path in BIASES)}


@dataclass(frozen=True)
class DenseUntil:
    """The number of layers before the first mixture of experts, which must be all of them. Comes after the depth."""

    default: int
    key: str = "first_k_dense_replace"

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return no facts. Raises CheckpointError for a model with mixtures of experts."""
        found = config.get(self.key)
        dense = self.default if found is None else found
        if not isinstance(dense, int) or dense < facts["depth"]:
            wanted = f"{facts['depth']}, the number of layers: mixtures of experts are not supported"
            raise config.wrong_value(self.key, dense, wanted)
        return {}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key, and that there are no layers for the prediction of several tokens."""
        return {self.key: facts["depth"], "num_nextn_predict_layers": 0}


def score_scale(facts: Facts) -> float | None:
    """Return the factor on scores: the usual one times the square of YaRN's `mscale_all_dim` temperature."""
    rope: Rope | None = None if facts[f"{LATENT}rope"] is None else build(Rope, f"{LATENT}rope", facts)
    if rope is None or not isinstance(rope.scaling, Yarn) or not rope.scaling.mscale_all_dim:
        return None
    temperature = rope.scaling.growth(rope.scaling.mscale_all_dim)
    usual = (facts[f"{LATENT}nope_dim"] + facts[f"{LATENT}rope_dim"]) ** -0.5
    return float(usual * temperature * temperature)


def latent_attention(*, rank: int, q_rank: int, nope: int, rope: int, value: Size) -> tuple[Item, ...]:
    """Return the items of heads, ranks and head sizes, with the class's defaults, and the norms of the latents."""
    return (
        Size("num_attention_heads", f"{LATENT}heads"),
        EqualHeads(),
        Size("kv_lora_rank", f"{LATENT}kv_rank", default=rank),
        QueryRank(q_rank),
        Size("qk_nope_head_dim", f"{LATENT}nope_dim", default=nope),
        Size("qk_rope_head_dim", f"{LATENT}rope_dim", default=rope),
        value,
        ComputedSizes(),
        DerivedFact(f"{LATENT}kv_norm", lambda _: Norm("rms", LATENT_EPS)),
        LatentBiases(),
    )


def latent_entries(module: str = SELF_ATTENTION) -> Entries:
    """Return the entries of latent attention."""
    names = {"q": "q_proj", "q_a": "q_a_proj", "q_b": "q_b_proj", "kv_a": "kv_a_proj_with_mqa", "kv_b": "kv_b_proj"}
    return (
        *(one for slot, name in names.items() for one in linear(f"{LATENT}{slot}", f"{module}.{name}")),
        *norm(f"{LATENT}q_norm", f"{module}.q_a_layernorm"),
        *norm(f"{LATENT}kv_norm", f"{module}.kv_a_layernorm"),
        *linear(f"{LATENT}o", f"{module}.o_proj"),
    )

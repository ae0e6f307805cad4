"""XVERSE: Llama under another name, without biases; RoPE of the longest model is in its code, not in its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import PUBLISHED_SCALINGS, WIDTH_OVER_HEADS, Fixed, Rotary, SpecialTokens
from kept.families.lengths import grown
from kept.families.parts import NO_EXPERTS, activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.table import Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.families.lengths import LengthRule
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec

LONGEST = 16384
"""The context of XVERSE-65B, the longest of the models with the default rotation."""


@dataclass(frozen=True)
class StatedRotation:
    """A check for XVERSE-13B-256K: its code has another theta, with scaling, and its config states neither.

    Comes after the context.
    """

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return no facts. Raises CheckpointError for a long context without a stated rotation."""
        stated = any(config.get(key) is not None for key in ("rope_theta", "rope_scaling", "rope_parameters"))
        if facts["context"] > LONGEST and not stated:
            raise CheckpointError(
                f"{config.where}: has no rope_theta, which is in the code of XVERSE-13B-256K; for that model "
                'add "rope_theta": 500000 and "rope_scaling": {"type": "dynamic", "factor": 2.0}'
            )
        return {}

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys: the rotation's own item writes it."""
        return {}


def per_sequence_rule(spec: Spec) -> LengthRule | None:
    """Return the rule of XVERSE: theta depends on the sequence's length alone; cached keys keep their rotation."""
    return grown(spec, "computes theta from each sequence's length alone")


XVERSE = Family(
    name="xverse",
    architecture="XverseForCausalLM",
    items=(
        *sizes(default_context=8192),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        NO_EXPERTS,
        *rms_norms(),
        StatedRotation(),
        Rotary(scalings=PUBLISHED_SCALINGS),
        Fixed("quantization_bit", value=0, why="quantised weights are not supported; use the unquantised checkpoint"),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=per_sequence_rule,
)

"""XVERSE: Llama by another name, without biases; its longest model keeps its rotation in code, not in its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.items import NO_EXPERTS, DerivedFact, Fixed, Flag, Number, Size, SpecialTokens, split_heads
from kept.families.lengths import grown
from kept.families.llama import DECODER, ENTRIES, GATED, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import PUBLISHED, Rotary
from kept.families.table import ATTENTION, Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.families.lengths import LengthRule
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec

LONGEST = 16384
"""The context of XVERSE-65B, the longest of those that rotate as the default says."""


@dataclass(frozen=True)
class StatedRotation:
    """XVERSE-13B-256K's code has another theta and scales it, of which its config says nothing. Comes after context."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Check: long contexts must say how they rotate."""
        said = any(config.get(key) is not None for key in ("rope_theta", "rope_scaling", "rope_parameters"))
        if known["context"] > LONGEST and not said:
            raise CheckpointError(
                f"{config.where}: has no rope_theta, which the code of XVERSE-13B-256K keeps to itself; for that model "
                'add "rope_theta": 500000 and "rope_scaling": {"type": "dynamic", "factor": 2.0}'
            )
        return {}

    def write(self, table: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """The rotation's own item says it."""
        return {}


def per_sequence_rule(spec: Spec) -> LengthRule | None:
    """Return the rule of XVERSE: theta depends on the sequence's length alone; cached keys keep their rotation."""
    return grown(spec, "computes theta from each sequence's length alone")


XVERSE = Family(
    name="xverse",
    architecture="XverseForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=8192),
        *DECODER[4:],
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        NO_EXPERTS,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        StatedRotation(),
        Rotary(kinds=PUBLISHED),
        Fixed("quantization_bit", value=0, why="quantised weights are not read; take the plain checkpoint"),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=per_sequence_rule,
)

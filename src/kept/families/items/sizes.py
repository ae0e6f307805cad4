"""Items of sizes: positive integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.config import LARGEST
from kept.families.items.fixed import DerivedFact
from kept.families.paths import ATTENTION, first_value

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

DefaultSize = int | Callable[["Facts"], int] | None
"""The size that the model class assumes if the key is absent, or how it computes it; None: the key is required."""


@dataclass(frozen=True)
class Size:
    """A positive integer. `null` is what a null key means to the model class, if not the same as an absent one."""

    key: str
    path: str
    default: DefaultSize = None
    largest: int = LARGEST
    null: DefaultSize = None

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact."""
        is_null = self.null is not None and config.states(self.key) and config.get(self.key) is None
        default = self.null if is_null else self.default
        return {self.path: config.size(self.key, default(facts) if callable(default) else default, self.largest)}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {self.key: first_value(facts, self.path)}


def width_over_heads(facts: Facts) -> int:
    """Return the head size of families whose heads divide the width."""
    return int(facts["width"] // facts[f"{ATTENTION}heads"])


def query_heads(facts: Facts) -> int:
    """Return the number of query heads."""
    return int(facts[f"{ATTENTION}heads"])


def four_widths(facts: Facts) -> int:
    """Return four times the width, the MLP's default size in several families."""
    return int(4 * facts["width"])


@dataclass(frozen=True)
class KeyValueHeads(Size):
    """The number of key-value heads, a divisor of the query heads. Comes after them."""

    key: str = "num_key_value_heads"
    path: str = f"{ATTENTION}kv_heads"
    default: DefaultSize = query_heads
    null: DefaultSize = query_heads

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact. Raises CheckpointError unless it divides the query heads."""
        found, heads = super().read(config, facts), facts[f"{ATTENTION}heads"]
        if heads % found[self.path]:
            raise config.wrong(self.key, f"a divisor of the {heads} query heads")
        return found


MULTI_HEAD = DerivedFact(f"{ATTENTION}kv_heads", query_heads)
"""Default of families without grouped heads: as many key-value heads as query heads."""

HEAD_DIM = Size("head_dim", f"{ATTENTION}head_dim", default=width_over_heads)
"""The head size, by default the width over the heads."""

HEADS_OF_128 = Size("head_dim", f"{ATTENTION}head_dim", default=128, null=width_over_heads)
"""The head size of classes that assume 128 for an absent key, and the width over the heads for a null one."""

WIDTH_OVER_HEADS = DerivedFact(f"{ATTENTION}head_dim", width_over_heads)
"""The head size of families that always divide the width by the heads."""

"""One layer: a mixer branch and an MLP branch, each added to the residual stream; either may be absent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kept.ir.spec.attention import Attention
from kept.ir.spec.slot import Space, norm_slots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec.norm import Norm
    from kept.ir.spec.operation import FeedForward, Mixer, Operation
    from kept.ir.spec.slot import Slot

BranchName = Literal["mixer", "mlp"]


@dataclass(frozen=True)
class Branch:
    """One branch of a layer: `post_norm(op(norm(x)))`, to be added to the residual stream.

    `norm_name` is the norm's name within the layer; both branches of a layer with a shared norm have the same.
    """

    name: BranchName
    op: Operation
    norm: Norm
    norm_name: str
    post_norm: Norm | None

    @property
    def post_norm_name(self) -> str:
        """The post-norm's name within the layer."""
        return f"{self.name}_post_norm"

    @property
    def readers(self) -> tuple[str, ...]:
        """The projections that read the norm's output, named within the layer."""
        return tuple(f"{self.name}.{projection}" for projection in self.op.readers)

    @property
    def writers(self) -> tuple[str, ...]:
        """The projections that write to the residual stream, or to the post-norm, named within the layer."""
        return tuple(f"{self.name}.{projection}" for projection in self.op.writers)

    def slots(self, width: int) -> Iterator[tuple[str, Slot]]:
        """Yield the branch's own weights, named within the layer: norm, operation, post-norm."""
        if self.norm_name == f"{self.name}_norm":
            yield from norm_slots(self.norm_name, self.norm, (width,), Space.RESIDUAL)
        for name, slot in self.op.slots(width):
            yield f"{self.name}.{name}", slot
        yield from norm_slots(self.post_norm_name, self.post_norm, (width,), Space.RESIDUAL)


@dataclass(frozen=True)
class Layer:
    """A mixer and an MLP, each added to the residual stream, times `residual_multiplier`. None: the branch is absent.

    A norm stands before each branch, and a post-norm may follow it, before the multiplier. `parallel`: both branches
    read the same stream, otherwise the MLP reads the mixer's result. `shared_norm`: the MLP of a parallel layer reads
    the output of the mixer's norm and has none of its own.
    """

    mixer: Mixer | None
    mlp: FeedForward | None
    mixer_norm: Norm | None
    mlp_norm: Norm | None
    parallel: bool = False
    shared_norm: bool = False
    mixer_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    residual_multiplier: float = 1.0

    def __post_init__(self) -> None:
        """Check that norms belong to branches that are there, and that a shared norm has two readers."""
        assert (self.mixer is None) == (self.mixer_norm is None), "each mixer has a norm, if only of kind none"
        assert (self.mlp is None or self.shared_norm) == (self.mlp_norm is None), "each MLP has a norm or shares one"
        assert not self.shared_norm or (self.parallel and self.mixer is not None and self.mlp is not None)
        assert self.mixer is not None or self.mixer_post_norm is None, "an absent mixer has no post-norm"
        assert self.mlp is not None or self.mlp_post_norm is None, "an absent MLP has no post-norm"

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches that are there, mixer first."""
        return tuple(self._branches())

    @property
    def attention(self) -> Attention | None:
        """The mixer if it is softmax attention, else None."""
        return self.mixer if isinstance(self.mixer, Attention) else None

    def _branches(self) -> Iterator[Branch]:
        if self.mixer is not None:
            assert self.mixer_norm is not None
            yield Branch("mixer", self.mixer, self.mixer_norm, "mixer_norm", self.mixer_post_norm)
        if self.mlp is not None:
            norm, name = (self.mixer_norm, "mixer_norm") if self.shared_norm else (self.mlp_norm, "mlp_norm")
            assert norm is not None
            yield Branch("mlp", self.mlp, norm, name, self.mlp_post_norm)

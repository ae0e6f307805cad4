"""A torch module for each kind of MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.ir import spec as ir

if TYPE_CHECKING:
    from collections.abc import Callable


class MlpModule(nn.Module):
    """`down(act(gate x) * up x)` when gated (arXiv 2002.05202), `down(act(up x))` when not."""

    def __init__(self, spec: ir.Mlp, width: int) -> None:
        super().__init__()
        self.spec = spec
        if spec.gated and spec.fused:
            self.gate_up = nn.Linear(width, 2 * spec.size, bias=spec.up_bias)
        else:
            if spec.gated:
                self.gate = nn.Linear(width, spec.size, bias=spec.gate_bias)
            self.up = nn.Linear(width, spec.size, bias=spec.up_bias)
        self.down = nn.Linear(spec.size, width, bias=spec.down_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Apply the MLP to each token: (..., D) to (..., D)."""
        act = ACTIVATIONS[self.spec.activation]
        if not self.spec.gated:
            hidden = act(self.up(x_BTD))
        elif self.spec.fused:
            gate, up = self.gate_up(x_BTD).chunk(2, dim=-1)
            hidden = act(gate) * up
        else:
            hidden = act(self.gate(x_BTD)) * self.up(x_BTD)
        out: Tensor = self.down(hidden)
        return out


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[ir.Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _relu2,
}

MLPS: dict[type[ir.FeedForward], Callable[[Any, int], nn.Module]] = {ir.Mlp: MlpModule}


def mlp_module(spec: ir.FeedForward, width: int) -> nn.Module:
    """Return the module of an MLP for a residual stream of `width`. It maps (..., D) to (..., D)."""
    return MLPS[type(spec)](spec, width)

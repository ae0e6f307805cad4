"""Sums over calibration tokens for one branch: second moments of its matrices' inputs, and the least-squares refit.

The refit adds to the output projection W the ridge solution of e = dW h, where h is the input of W and e the error of
what the branch adds: dW = E[e h'] (E[h h'] + ridge)^-1. Tokens have the weights of the loss.
Shapes: N tokens, I inputs, O outputs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from kept.distillation.train.whitened import cholesky_factor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn


@dataclass(eq=False)
class InputSums:
    """Weighted sums of a branch. `matrices` are the modules whose inputs are summed, by name.

    `output` names the output projection if it can be refitted, else it is None. Matrices that read one tensor share its
    sums: `first` has the first of them for each.
    """

    matrices: Mapping[str, nn.Module]
    output: str | None
    first: dict[str, str] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    crossed_OI: Tensor | None = None
    total: float = 0.0

    @torch.no_grad()
    def add(self, run: Callable[[], Tensor], wanted_ND: Tensor, weight_N: Tensor) -> None:
        """Run the branch, which returns what it adds (N, D), and add its tokens with their weights."""
        inputs: dict[str, Tensor] = {}
        hooks = [module.register_forward_pre_hook(_keep(inputs, name)) for name, module in self.matrices.items()]
        try:
            found_ND = run()
        finally:
            for hook in hooks:
                hook.remove()
        with torch.autocast(weight_N.device.type, enabled=False):
            self._sum(inputs, _counted(wanted_ND.float() - found_ND.float(), weight_N), weight_N)

    def _sum(self, inputs: Mapping[str, Tensor], error_ND: Tensor, weight_N: Tensor) -> None:
        """Add the products of the tokens, in float32, to the sums, in float64."""
        self.total += float(weight_N.sum())
        for name, x in inputs.items():
            self.first[name] = next(other for other, y in inputs.items() if y is x)
            if self.first[name] == name:
                x_NI = _counted(x, weight_N)
                moment_II = ((x_NI * weight_N[:, None]).T @ x_NI).double()
                self.moments[name] = moment_II + self.moments.get(name, torch.zeros_like(moment_II))
        if self.output is not None and self.output in inputs:
            crossed_OI = ((error_ND * weight_N[:, None]).T @ _counted(inputs[self.output], weight_N)).double()
            self.crossed_OI = crossed_OI + (0 if self.crossed_OI is None else self.crossed_OI)

    def factors(self) -> dict[str, Tensor]:
        """Return the Cholesky factor L (I, I) of the input of each matrix that was run: one object for each input."""
        own = {name: cholesky_factor(moment / max(self.total, 1e-30)) for name, moment in self.moments.items()}
        return {name: own[first] for name, first in self.first.items()}

    def refit(self, factors: Mapping[str, Tensor]) -> Tensor | None:
        """Return the change (D, I) of the output projection; None if it cannot be refitted."""
        if self.crossed_OI is None or self.output is None:
            return None
        return torch.cholesky_solve(self.crossed_OI.T / self.total, factors[self.output]).T


def _counted(x: Tensor, weight_N: Tensor) -> Tensor:
    """Return (N, X) in float32, with zeros for tokens of weight 0, which may be NaN."""
    return x.reshape(len(weight_N), -1).float().masked_fill(weight_N[:, None] == 0, 0)


def _keep(inputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[name] = given[0]

    return hook

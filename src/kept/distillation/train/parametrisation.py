"""How the weights of a model are computed from the parameters that are trained: plain, or with updates beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kept.ir.tensors import InMemory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from kept.ir.program import Program
    from kept.ir.tensors import Lazy


class Parametrisation(Protocol):
    """The parameters of a model in training, and the weights that they stand for."""

    def inject(self, model: nn.Module) -> None:
        """Change the parameters of a model on the meta device."""

    def slot(self, parameter: str) -> str | None:
        """Return the slot whose weight a parameter is. A parameter without one, None, is always trained."""

    def initial(self, program: Program, parameter: str, shape: tuple[int, ...]) -> Lazy:
        """Return the initial value of a parameter, the same on any number of ranks."""

    def weights(self, program: Program, trained: Mapping[str, Tensor]) -> dict[str, Lazy]:
        """Return the weights of the slots that training has changed, given the trained parameters by name."""


class Plain:
    """Each parameter is the weight of the slot of its name."""

    def inject(self, model: nn.Module) -> None:
        """Leave the model as it is."""

    def slot(self, parameter: str) -> str:
        """Return the parameter's name."""
        return parameter

    def initial(self, program: Program, parameter: str, shape: tuple[int, ...]) -> Lazy:  # noqa: ARG002 - the protocol's
        """Return the program's weight."""
        return program.weights[parameter]

    def weights(self, program: Program, trained: Mapping[str, Tensor]) -> dict[str, Lazy]:
        """Return the parameters."""
        return {name: InMemory(tuple(x.shape), program.weights[name].dtype, x) for name, x in trained.items()}


PLAIN = Plain()

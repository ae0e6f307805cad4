"""One model for any spec. It loads programs, verifies conversions, and is the student and teacher of distillation.

Shapes: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.ir.tensors import torch_dtype, working_precision
from kept.nn.decoder import Decoder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kept.ir.program import Program
    from kept.ir.tensors import Precision
    from kept.nn.state import DecodeState


class Model(Decoder):
    """A decoder for token ids (B, T) with logits (B, T, V).

    Under `torch.device("meta")` it has shapes and no memory. `load` makes one with a program's weights.
    """

    @classmethod
    def load(cls, program: Program, dtype: torch.dtype | None = None, precision: Precision = "float32") -> Model:
        """Return a model with every weight of a program, in evaluation mode.

        Weights are computed in `precision` and rounded to `dtype` (None: the dtype of most weights, as transformers
        does).
        """
        if dtype is None:
            dtype, precision = torch_dtype(program.dtype), working_precision(program.dtype)
        with torch.device("meta"):
            model = cls(program.spec)
        fill(model, program, "", dtype, precision)
        return model.eval()

    def forward(
        self,
        tokens_BT: Tensor,
        state: DecodeState | None = None,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of every position, (B, T, V).

        With a state the tokens follow those that it has read, and it is updated. `pads_B` counts the padding tokens at
        the left of each row. `documents_BT` numbers the documents of packed rows.
        """
        return self.logits(self.hidden(tokens_BT, state, pads_B, documents_BT))


def fill(module: nn.Module, program: Program, prefix: str, dtype: torch.dtype | None, precision: Precision) -> None:
    """Fill a module built on the meta device with the program's weights under `prefix`, frozen.

    `dtype` None keeps each weight's own dtype.
    """
    values = {}
    for name, _ in module.named_parameters():
        lazy = program.weights[prefix + name]
        values[name] = lazy.read() if dtype is None else lazy.value(precision).to(dtype)
    module.load_state_dict(values, assign=True, strict=True)
    module.requires_grad_(requires_grad=False)

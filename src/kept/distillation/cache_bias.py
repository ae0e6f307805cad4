"""The bias of the KL over a teacher's top-k tokens, measured on held-out rows of a cache.

Shapes: B rows of T tokens, N = B T of them, D the width of the head's input.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from kept.distillation.loss.output_head import HeadInput
from kept.distillation.loss.top_k_bias import top_k_bias
from kept.distillation.train.backbone import head_input

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from kept.distillation.data.packed_rows import PackedRows
    from kept.distillation.train.backbone import Backbone

MEASURED = 4096
"""Number of held-out tokens on which the top-k KL is compared with the full KL."""


@torch.no_grad()
def measure(teacher: Backbone, student: Backbone | None, rows: PackedRows, about: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the top-k KL with the full KL on held-out rows, for k, k / 4 and 4 k.

    Uses the first training rows if nothing is held out.
    """
    sources = range(len(rows.mixture.names))
    each = max(1, MEASURED // (rows.length * len(sources)))
    numbers = [n for s in sources for n in (rows.held_out(s) or rows.train(s))[:each]]
    ours, theirs, mask_N = _head_inputs(teacher, student, rows, numbers)
    k, most = about["k"], about["vocabulary"]
    ks = sorted({max(1, k // 4), k, min(4 * k, most)})
    found = top_k_bias(ours.first(most), theirs.first(most), mask_N, ks, about["temperature"])
    by_k = [{**asdict(one), "bias": one.bias} for one in found]
    return {
        "against": "the student" if student else "the teacher without its last layer",
        "tokens": int(mask_N.sum()),
        "by_k": by_k,
    }


def _head_inputs(
    teacher: Backbone, student: Backbone | None, rows: PackedRows, numbers: Sequence[int]
) -> tuple[HeadInput, HeadInput, Tensor]:
    """Return the inputs of the student's and the teacher's head at some rows, and the loss mask of their tokens."""
    ours, theirs, masks = [], [], []
    for row in numbers:
        batch = rows.batch([row]).to(teacher.model.embedding.weight.device)
        last = deque(teacher.model.streams(batch.tokens_BT, documents_BT=batch.packed_BT), maxlen=2)
        theirs.append(head_input(teacher.model, last[1]))
        if student is None:
            ours.append(head_input(teacher.model, last[0]))
        else:
            ours.append(student.output(batch).head)
        masks.append(batch.mask_BT.flatten())
    return _joined(ours), _joined(theirs), torch.cat(masks)


def _joined(parts: Sequence[HeadInput]) -> HeadInput:
    first = parts[0]
    return HeadInput(torch.cat([one.hidden_ND for one in parts]), first.weight_VD, first.bias_V, first.head)

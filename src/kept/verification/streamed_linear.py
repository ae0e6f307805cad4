"""The product of a matrix that stays in its file with the vectors of some tokens.

Shapes: N tokens, I inputs, O outputs, H outputs of one block.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.checkpoint.byte_stream import one_thread
from kept.ir.tensors import Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kept.ir.tensors import Lazy, Precision

HELD_ELEMENTS = 1 << 18
"""Elements of a block of rows: 2 MB in float64. Each thread holds one, if rows are independent."""


class StreamedLinear(nn.Module):
    """`x W' + b`, a block of rows of W at a time. `normalised`: each row of W has length 1.

    W is read in `dtype`, after it was computed in `precision`. Products of 16-bit numbers are summed in float32 and
    rounded once, as on a GPU. On a processor without 16-bit instructions this takes a third of the time of torch's own
    product, and makes the same numbers but for the order of the sum.

    Each thread reads, widens and multiplies blocks of its own. Threads that share each small product would mostly wait
    for each other, or for the file. Blocks are widened into memory that is used again, because new memory of this size
    costs more time than the conversion.
    """

    def __init__(
        self, dtype: torch.dtype, precision: Precision, weight: Lazy, bias: Lazy | None, *, normalised: bool = False
    ) -> None:
        super().__init__()
        self.dtype, self.precision, self.weight, self.bias = dtype, precision, weight, bias
        self.normalised = normalised
        self.wide = torch.promote_types(dtype, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        out = x.new_empty(*x.shape[:-1], self.weight.shape[0])
        self._multiply(x.to(self.wide).flatten(0, -2).t().contiguous(), out.flatten(0, -2))
        return out

    def _multiply(self, x_IN: Tensor, out_NO: Tensor) -> None:
        """Fill `out_NO`, on as many threads as there are blocks and torch may use."""
        blocks = range(0, out_NO.shape[1], self._rows_held)
        work = self._worker(iter(blocks), x_IN, out_NO)
        threads = min(torch.get_num_threads(), len(blocks))
        if threads == 1:
            work()
            return
        with one_thread(), ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()

    def _worker(self, starts: Iterator[int], x_IN: Tensor, out_NO: Tensor) -> Callable[[], None]:
        """Return a function that computes blocks until none is left. Several threads may run it at once."""
        read, count, step = self._reader(), out_NO.shape[1], self._rows_held
        bias = None if self.bias is None else self.bias.value(self.precision).to(self.dtype).to(self.wide)

        @torch.inference_mode()
        def work() -> None:
            room_HI = x_IN.new_empty(min(step, count), len(x_IN))
            for start in starts:
                some = slice(start, min(count, start + step))
                rows_HI = self._widened(read(some.start, some.stop), room_HI[: some.stop - start])
                found_NH = (rows_HI @ x_IN).t()
                out_NO[:, some] = found_NH if bias is None else found_NH + bias[some]

        return work

    @property
    def _rows_held(self) -> int:
        """Rows of a block: all, where a row cannot be computed alone."""
        return max(1, HELD_ELEMENTS // self.weight.row_elements) if self.weight.by_rows else self.weight.shape[0]

    def _reader(self) -> Callable[[int, int], Tensor]:
        """Return a function of rows: those of a file as they are stored, others as they are computed."""
        return self.weight.stored_rows if isinstance(self.weight, Stored) else self.weight.reader(self.precision)

    def _widened(self, rows_HI: Tensor, room_HI: Tensor) -> Tensor:
        """Return rows with the values of `dtype` in the wide dtype, in `room_HI` or as they are."""
        if torch.promote_types(rows_HI.dtype, self.dtype) != self.dtype:
            rows_HI = rows_HI.to(self.dtype)
        if self.normalised:
            rows_HI = F.normalize(rows_HI.to(self.dtype), dim=-1)
        return rows_HI if rows_HI.dtype == self.wide else room_HI.copy_(rows_HI)

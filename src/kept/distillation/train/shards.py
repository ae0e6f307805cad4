"""The rows of a sharded tensor that this rank holds. FSDP2 splits the first axis as `torch.chunk` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.tensor import DTensor, Shard

if TYPE_CHECKING:
    from torch import Tensor

    from kept.ir.tensors import Lazy


def is_sharded(tensor: Tensor) -> bool:
    """Return whether the ranks hold the rows of a tensor together. Otherwise this rank alone holds all of them."""
    return isinstance(tensor, DTensor)


def local_rows(tensor: Tensor) -> range:
    """Return the numbers of the rows that this rank holds: all rows of a tensor that is not sharded."""
    rows = tensor.shape[0]
    if not isinstance(tensor, DTensor):
        return range(rows)
    assert tensor.placements == (Shard(0),), "FSDP2 on a mesh of one axis shards the first axis"
    each = -(-rows // tensor.device_mesh.size())
    begin = min(tensor.device_mesh.get_local_rank() * each, rows)
    return range(begin, min(begin + each, rows))


def local_shard(tensor: Tensor) -> Tensor:
    """Return the rows that this rank holds. They share memory with `tensor`."""
    shard: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return shard


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor with the rows of all ranks, detached and in CPU memory."""
    gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered.detach().cpu()


def fill_shard(tensor: Tensor, source: Lazy) -> None:
    """Copy this rank's rows from a lazy tensor of the same shape. Reads no other rows, if that is possible."""
    shard, rows = local_shard(tensor), local_rows(tensor)
    if not shard.numel():
        return
    if source.by_rows:
        shard.copy_(source.rows(rows.start, rows.stop, "float32"))
    else:
        shard.copy_(source.value("float32")[rows.start : rows.stop])


def zero_other_rows(tensor: Tensor, rows: range) -> None:
    """Set all rows but `rows` to 0, on every rank that holds some of them."""
    shard, begin = local_shard(tensor), local_rows(tensor).start
    shard[: max(0, rows.start - begin)] = 0
    shard[max(0, rows.stop - begin) :] = 0

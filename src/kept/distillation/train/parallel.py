"""One process or many: the group, which rows of a batch are whose, and models of which each rank holds a part (FSDP2).

A model is built without memory, split, and then filled: each rank reads just the rows that it holds.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.utils.checkpoint import checkpoint

from kept.distillation.loss.output_head import HeadInput
from kept.distillation.train.lora import starting
from kept.errors import InputError, KeptError
from kept.ir.spec import Attention
from kept.nn import Model
from kept.nn.mixers.attention import SequenceContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kept.distillation.data.packing import Batch
    from kept.distillation.train.trainable import Trainable
    from kept.ir.program import Program
    from kept.ir.tensors import Lazy

    Made = TypeVar("Made")


LONGEST_WAIT = timedelta(days=1)
"""For the first rank to write the largest model and to measure it."""


@dataclass(frozen=True)
class Ranks:
    """This process among all: its number, how many there are, and where it computes."""

    number: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and shows."""
        return self.number == 0

    def rows(self, batch: int) -> tuple[int, int]:
        """The first of a batch's rows that is this rank's, and one past its last."""
        each = -(-batch // self.count)
        return min(batch, self.number * each), min(batch, (self.number + 1) * each)

    def meet(self) -> None:
        """Wait for the others, however long one of them writes: a device's own barrier gives up after minutes."""
        group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        dist.barrier(group)
        dist.destroy_process_group(group)

    def once(self, do: Callable[[], Made]) -> Made | None:
        """Have the first rank do something while the others wait; returns it there. A KeptError is raised on all."""
        made, failed = None, [None]  # type: Made | None, list[KeptError | None]
        if self.first:
            try:
                made = do()
            except KeptError as error:
                failed = [error]
        self.meet()
        dist.broadcast_object_list(failed, device=torch.device("cpu"))
        if failed[0] is not None:
            raise failed[0]
        return made

    def agreed(self, value: Made) -> Made:
        """Return the first rank's value on every rank."""
        held = [value]
        dist.broadcast_object_list(held, device=torch.device("cpu"))
        return held[0]

    def total(self, *values: float) -> list[float]:
        """Sums over all ranks."""
        held = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(held)
        return held.tolist()


def own_device(device: str | None = None) -> torch.device:
    """Where this process computes: on its own GPU, if there are any."""
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if where.type == "cuda" else where


@contextmanager
def ranks(device: str | None = None) -> Iterator[Ranks]:
    """The processes that torchrun started; without it a group of one."""
    number, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    where = own_device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    # The second backend carries what an asynchronous checkpoint has to agree on.
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    store = None if count > 1 else dist.HashStore()  # type: ignore[attr-defined] # torch's stubs
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    try:
        yield Ranks(number, count, where)
    finally:
        dist.destroy_process_group()


class Backbone(nn.Module):
    """A model whose forward ends before the head and hands it over with what it reads.

    What is done with the head happens inside of `forward`, while a split model holds the head's weights as a whole.
    `checkpointing` computes layers again in the backward, `compiled` lets torch compile each of them. `rows` are the
    parameters of which only some rows learn, and which of those that this rank holds.
    """

    def __init__(self, model: Model, *, checkpointing: bool = False, compiled: bool = False) -> None:
        super().__init__()
        self.model, self.checkpointing, self.compiled = model, checkpointing, compiled
        self.rows: list[tuple[nn.Parameter, range]] = []
        for layer in model.layers if compiled else ():
            layer.forward = torch.compile(layer.forward)  # a split layer's hooks gather weights, and stay outside

    def forward(self, batch: Batch, use: Callable[[HeadInput, list[Tensor]], Made], *, streams: bool = False) -> Made:
        """Run a batch and return `use(head_input, hidden_states)`; the first is (N, D), each of the others (B, T, D).

        Hidden states, before the first layer and after each one, are kept only if `streams`.
        """
        where = SequenceContext.of(batch.tokens_BT, documents_BT=batch.documents_BT)
        x_BTD = self.model.embed(batch.tokens_BT, where)
        if self.compiled:
            where.prepare((one for _, one in self.model.spec.operations(Attention)), (x_BTD.dtype, torch.float32))
        kept = [x_BTD] if streams else []
        for layer in self.model.layers:
            x_BTD = checkpoint(layer, x_BTD, where, use_reentrant=False) if self.checkpointing else layer(x_BTD, where)
            if streams:
                kept.append(x_BTD)
        return use(head_input(self.model, x_BTD), kept)

    def learning(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name; of a sharded model this rank's shards, in float32."""
        if isinstance(self, FSDPModule):
            self.reshard()  # a forward without a backward leaves the unsharded parameters in the compute dtype
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def keep_rows(self) -> None:
        """Take the gradients of rows that do not learn away."""
        for parameter, rows in self.rows:
            if parameter.grad is not None:
                own = local(parameter.grad)
                own[: rows.start] = 0
                own[rows.stop :] = 0


def head_input(model: Model, x_BTD: Tensor) -> HeadInput:
    """What a model's head reads where this is its stream, and the head."""
    head = model.head
    weight_VD = model.embedding.weight if head.weight is None else head.weight
    return HeadInput(model.final_norm(x_BTD).flatten(0, 1), weight_VD, head.bias, head.spec)


def load(
    program: Program,
    dtype: torch.dtype,
    ranks: Ranks,
    learns: Trainable | None = None,
    *,
    checkpointing: bool = False,
    compiled: bool = False,
) -> Backbone:
    """A program as a model in `dtype`, split over the ranks where there are several; what learns is float32.

    Raises InputError where it cannot be compiled, or LoRA's layers are missing.
    """
    if compiled:
        _require_compiler(ranks.device)
    with torch.device("meta"):
        trunk = Backbone(Model(program.spec), checkpointing=checkpointing, compiled=compiled)
    trunk.to(dtype).requires_grad_(requires_grad=False)
    if learns is not None:
        learns.apply(trunk.model)
    if ranks.count > 1:
        # Casting inputs would copy the positions at every layer, and each copy would make its tables anew.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in trunk.model.layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(trunk, mp_policy=policy)
    trunk.to_empty(device=ranks.device)
    with torch.no_grad():
        for name, parameter in trunk.model.named_parameters():
            fill(parameter, starting(program, name, tuple(parameter.shape)))
            if learns is not None and name in learns.rows:
                trunk.rows.append((parameter, _held(parameter, learns.rows[name])))
    return trunk


def _require_compiler(device: torch.device) -> None:
    """What torch compiles for a CPU is C++."""
    wanted = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(wanted) is None:
        raise InputError(f"compile: needs a C++ compiler, and {wanted} is none here; install one, or leave it out")


def fill(parameter: Tensor, lazy: Lazy) -> None:
    """Fill a tensor from a lazy one of the same shape; each rank reads only the rows that it holds."""
    own = local(parameter)
    if not own.numel():
        return
    begin = _begin(parameter)
    end = begin + own.shape[0]
    own.copy_(lazy.rows(begin, end, "float32") if lazy.by_rows else lazy.value("float32")[begin:end])


def local(tensor: Tensor) -> Tensor:
    """The rows that this rank holds."""
    found: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return found


def _begin(parameter: Tensor) -> int:
    """The first row that this rank holds."""
    if not isinstance(parameter, DTensor):
        return 0
    _, (begin, *_) = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return begin


def _held(parameter: nn.Parameter, rows: range) -> range:
    """Rows of a weight, counted from the first that this rank holds; those beyond its own are left out."""
    begin = _begin(parameter)
    count = local(parameter).shape[0]
    return range(min(max(rows.start - begin, 0), count), min(max(rows.stop - begin, 0), count))


def whole(parameter: Tensor) -> Tensor:
    """A parameter with the parts of all ranks, on this machine's memory."""
    gathered = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return gathered.detach().cpu()

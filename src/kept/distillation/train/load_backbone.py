"""Load a program as a backbone, sharded over ranks with FSDP2.

The model is built without memory, sharded, and then filled: each rank reads only the rows that it holds.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from kept.distillation.train.backbone import Backbone
from kept.distillation.train.parametrisation import PLAIN
from kept.distillation.train.shards import fill_shard
from kept.errors import InputError
from kept.nn import Model

if TYPE_CHECKING:
    from kept.distillation.train.process_group import Ranks
    from kept.distillation.train.trainable import Trainable
    from kept.ir.program import Program


def load_backbone(
    program: Program,
    dtype: torch.dtype,
    ranks: Ranks,
    trained: Trainable | None = None,
    *,
    checkpointing: bool = False,
    compiled: bool = False,
) -> Backbone:
    """Return a program as a model in `dtype`, sharded if there are several ranks. Trainable parameters are float32.

    Raises InputError if there is no compiler for `compiled`, or no peft for LoRA.
    """
    if compiled:
        _require_compiler(ranks.device)
    with torch.device("meta"):
        backbone = Backbone(Model(program.spec), checkpointing=checkpointing, compiled=compiled)
    backbone.to(dtype).requires_grad_(requires_grad=False)
    if trained is not None:
        trained.apply(backbone.model)
    if ranks.world_size > 1:
        _shard(backbone, dtype)
    backbone.to_empty(device=ranks.device)
    parametrisation = PLAIN if trained is None else trained.parametrisation
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            fill_shard(parameter, parametrisation.initial(program, name, tuple(parameter.shape)))
    return backbone


def _shard(backbone: Backbone, dtype: torch.dtype) -> None:
    """Shard each layer by itself, and the rest together. The rest stays gathered between forward and backward."""
    # Casting inputs would copy the rotary tables and masks in every layer.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in backbone.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(backbone, mp_policy=policy, reshard_after_forward=False)


def _require_compiler(device: torch.device) -> None:
    """Raise InputError if torch.compile has no C++ compiler for a CPU."""
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise InputError(f"compile: needs a C++ compiler, and there is no {compiler}; install one, or leave it out")

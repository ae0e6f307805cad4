"""Programs, and logits of two implementations: ours and the stock classes of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

from kept.checkpoint.reader import open_checkpoint
from kept.families import family_of
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import InMemory
from kept.nn import Model
from support.models import strong
from support.tiny import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from kept.ir.spec import Spec


def program_of(directory: Path) -> Program:
    """The program of a checkpoint on disk."""
    checkpoint = open_checkpoint(directory)
    return family_of(checkpoint.config).read(checkpoint.config, checkpoint.tensors)


def random_program(spec: Spec, seed: int = 0) -> Program:
    """A program in memory with strong random float64 weights for any spec."""
    random = torch.Generator().manual_seed(seed)
    values = {name: _slot_values(name, slot.shape, random) for name, slot in slots(spec).items()}
    return Program(spec, {name: InMemory(tuple(value.shape), "F64", value) for name, value in values.items()})


def _slot_values(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    stored = f"{name.removesuffix('gain')}weight" if name.endswith("gain") else name
    return strong(stored, shape, random).double()


def model_of(program: Program, dtype: torch.dtype = torch.float64) -> Model:
    """The universal model with every weight computed in float64 and rounded to `dtype`."""
    return Model.load(program, dtype, "float64")


@torch.inference_mode()
def logits(
    program: Program, tokens: Tensor, dtype: torch.dtype = torch.float64, pads: Sequence[int] | None = None
) -> Tensor:
    """Our logits, (B, T, V); `pads` counts the padding at the left of each row."""
    return model_of(program, dtype)(tokens, pads_B=None if pads is None else torch.tensor(pads))


def stock(directory: Path, dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> PreTrainedModel:
    """The stock class's model of a checkpoint. Its plain attention ("eager") takes the softmax in float32 whatever the
    weights have, and gives rows of padding no number in float64."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention)
    return model.eval()


def stock_generation(model: PreTrainedModel, tokens: Tensor, **options: Any) -> Tensor:
    """Tokens and their continuation by the stock class, (B, T)."""
    generative: Any = model  # of a class that also derives from GenerationMixin, which PreTrainedModel does not
    return generative.generate(tokens, **options)


@torch.inference_mode()
def stock_logits(
    directory: Path, tokens: Tensor, dtype: torch.dtype = torch.float64, pads: Sequence[int] | None = None
) -> Tensor:
    """The stock class's logits. Positions are stated: not every class numbers them from the first real token."""
    model = stock(directory, dtype)
    if pads is None:
        return model(tokens).logits
    steps = torch.arange(tokens.shape[1])[None] - torch.tensor(pads)[:, None]
    return model(tokens, attention_mask=(steps >= 0).long(), position_ids=steps.clamp(min=0)).logits


def some_tokens(batch: int = 2, length: int = 24, vocabulary: int = VOCABULARY, seed: int = 7) -> Tensor:
    """Random token ids, (B, T), none of them special."""
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def worst(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, in units of the standard deviation of `theirs`."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().std())

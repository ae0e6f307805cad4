"""A branch of the student that learns alone, from the teacher's branch in the same place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn.utils import parametrize

from kept.distillation.loss.branch_error import branch_errors, token_weights
from kept.distillation.loss.chunked_loss import Losses
from kept.distillation.train.calibration import InputSums
from kept.distillation.train.shards import fill_shard
from kept.distillation.train.whitened import Whitened, inverse
from kept.nn.decoder import Block
from kept.verification.parity import reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from kept.ir.program import Program
    from kept.ir.spec import Norm, Spec
    from kept.ir.spec.layer import Branch, BranchName
    from kept.ir.stream_map import StreamMap
    from kept.nn.decoder import BranchRun
    from kept.nn.sequence import SequenceContext


@dataclass(frozen=True)
class BranchPair:
    """A branch of a layer of the student, the teacher's layer whose branch it learns from, and its trainable slots."""

    layer: int
    teacher_layer: int
    name: BranchName
    slots: tuple[str, ...]

    @property
    def group(self) -> str:
        """The name of its parameter group, such as `layers.3.mixer`."""
        return f"layers.{self.layer}.{self.name}"


@dataclass(eq=False)
class StudentBranch:
    """A branch with its weights: `block` is its layer, of which other branches may be absent.

    `next_norm` reads the stream after the branch. `stream_map` maps the teacher's stream to the student's. `trainable`
    has the parameters by slot, `matrices` the modules with a trainable matrix by their slots.
    """

    pair: BranchPair
    block: Block
    branch: Branch
    next_norm: Norm
    stream_map: StreamMap
    trainable: dict[str, nn.Parameter]
    matrices: Mapping[str, nn.Module]
    whitened: dict[str, Whitened] = field(default_factory=dict)

    def losses(self, run: BranchRun, context: SequenceContext, mask_N: Tensor) -> Losses:
        """Return the errors of the branch, given the run of the teacher's. `total` is their mean."""
        before_ND, wanted_ND = self._wanted(run)
        errors = branch_errors(before_ND, wanted_ND, self._added(run, context), self.next_norm, mask_N)
        total = torch.stack([*errors.values()]).mean()
        means = {name: error.detach() for name, error in errors.items()}
        return Losses(total, means, None, int((mask_N != 0).sum()))

    def new_sums(self) -> InputSums:
        """Return empty sums over the inputs of the trainable matrices."""
        output = [f"layers.{self.pair.layer}.{writer}.weight" for writer in self.branch.writers]
        is_linear = self.branch.post_norm is None and len(output) == 1 and output[0] in self.matrices
        return InputSums(self.matrices, output[0] if is_linear else None)

    def calibrate(self, sums: InputSums, run: BranchRun, context: SequenceContext, mask_N: Tensor) -> None:
        """Add the tokens of a batch to the sums."""
        before_ND, wanted_ND = self._wanted(run)
        weight_N = token_weights(before_ND, wanted_ND, mask_N)
        sums.add(lambda: self._added(run, context), wanted_ND, weight_N)

    def whiten(self, factors: Mapping[str, Tensor]) -> None:
        """Train the matrices in whitened coordinates, given the Cholesky factors of their inputs by slot."""
        inverses: dict[int, Tensor] = {}
        for slot, module in self.matrices.items():
            factor_II, weight = factors.get(slot), self.trainable[slot]
            weight.requires_grad = False
            if factor_II is not None and id(factor_II) not in inverses:
                inverses[id(factor_II)] = inverse(factor_II).to(weight.dtype)
            self.whitened[slot] = Whitened.of(weight, factor_II, inverses.get(id(factor_II)))
            parametrize.register_parametrization(module, "weight", self.whitened[slot], unsafe=True)
            self.trainable[slot] = self.whitened[slot].update_OI

    @torch.no_grad()
    def refit(self, sums: InputSums, factors: Mapping[str, Tensor]) -> bool:
        """Move the output projection to the least-squares solution. Returns False if the branch has none."""
        change_OI = sums.refit(factors)
        if change_OI is None or sums.output is None:
            return False
        change_OI = change_OI / self.block.spec.residual_multiplier
        if sums.output in self.whitened:
            self.whitened[sums.output].move(change_OI, factors[sums.output])
        else:
            weight = self.trainable[sums.output]
            weight.add_(change_OI.to(weight.dtype))
        return True

    @torch.no_grad()
    def merged(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights by slot, in CPU memory, for which trained values stand. Unchanged ones are left out."""
        found: dict[str, Tensor] = {}
        for slot, value in values.items():
            one = self.whitened.get(slot)
            if one is None:
                found[slot] = value
            elif value.any():
                frozen = self.matrices[slot].parametrizations["weight"].original  # type: ignore[union-attr, index]
                found[slot] = one.merged(frozen, value.to(frozen.device)).cpu()
        return found

    def _wanted(self, run: BranchRun) -> tuple[Tensor, Tensor]:
        """Return the student's stream before the branch, and what the branch should add to it, (N, D)."""
        before_BTD = self.stream_map(run.after_BTD - run.added_BTD)
        return before_BTD.flatten(0, 1), self.stream_map.difference(run.added_BTD).flatten(0, 1)

    def _added(self, run: BranchRun, context: SequenceContext) -> Tensor:
        return self.block.run_alone(self.branch, self.stream_map(run.stream_BTD), context).flatten(0, 1)


def load_branch(
    program: Program, pair: BranchPair, stream_map: StreamMap, dtype: torch.dtype, device: torch.device
) -> StudentBranch:
    """Return a branch of a program in `dtype`, with float32 for what is trainable. Reads no other weights."""
    layer, at = program.spec.layers[pair.layer], f"layers.{pair.layer}."
    block = _block(program.spec, pair, dtype).to_empty(device=device)
    trainable: dict[str, nn.Parameter] = {}
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            fill_shard(parameter, program.weights[at + name])
            if parameter.requires_grad:
                trainable[at + name] = parameter
    branch = next(one for one in layer.branches if one.name == pair.name)
    matrices = {
        at + name: block.get_submodule(name.removesuffix(".weight"))
        for name, slot in branch.slots(program.spec.width)
        if at + name in trainable and slot.role == "matrix" and len(slot.shape) == 2
    }
    return StudentBranch(pair, block, branch, next_norm(program.spec, pair), stream_map, trainable, matrices)


def _block(spec: Spec, pair: BranchPair, dtype: torch.dtype) -> Block:
    """Return a layer without its other branch on the meta device, of which the slots of a pair are trainable."""
    with torch.device("meta"):
        block = Block(spec.layers[pair.layer], spec.width)
    for other in {"mixer", "mlp"} - {pair.name}:
        setattr(block, other, None)
    block.to(dtype).requires_grad_(requires_grad=False)
    for name, parameter in block.named_parameters():
        if f"layers.{pair.layer}.{name}" in pair.slots:
            parameter.requires_grad_().data = parameter.data.float()
    return block


def next_norm(spec: Spec, pair: BranchPair) -> Norm:
    """Return the norm that reads the stream after a branch: of the next branch or layer, or before the head."""
    layer = spec.layers[pair.layer]
    rest = () if layer.parallel else layer.branches[[one.name for one in layer.branches].index(pair.name) + 1 :]
    return rest[0].norm if rest else reading(spec, pair.layer + 1)

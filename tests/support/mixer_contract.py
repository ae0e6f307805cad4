"""Contract of the module of every kind of mixer. The tests of a kind subclass `MixerContract` and list specs.

However a sequence is read, its output and its gradients are those of reading it alone and at once. Each property has a
negative control: a module with one known fault does not have it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from kept.errors import InputError
from kept.ir.spec import Layer, Norm, Spec
from kept.ir.tensors import DTYPE_BYTES
from kept.nn.mixers import MIXERS, mixer_module
from kept.nn.sequence import SequenceContext
from kept.verification.streamed import StreamedRun
from support.logits import model_of, random_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kept.ir.spec import Mixer
    from kept.nn.mixers.mixer import MixerModule
    from kept.nn.state import MixerState

    Run = Callable[["MixerRun", Tensor], Tensor]
    """Reads (1, T, D) in some way; returns (1, T, D)."""
    Fault = Callable[[SequenceContext], SequenceContext]

WIDTH, LENGTH = 6, 11

EXACT = 1e-9
"""Absolute, in float64, of outputs and gradients of size 1 to 100."""

PIECES: Sequence[Sequence[int]] = ([1] * LENGTH, [4, 1, 1, 5], [3, 8], [10, 1])
DOCUMENTS: Sequence[Sequence[int]] = ([LENGTH, 4], [2, LENGTH, 1], [1, 1, LENGTH])
PADS = (1, 5)


@dataclass(frozen=True)
class MixerRun:
    """A module to run; `fault` changes what it is told about the tokens."""

    module: MixerModule[Any]
    fault: Fault = lambda context: context

    def __call__(
        self,
        x_BTD: Tensor,
        state: MixerState | None = None,
        past: int = 0,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        context = self.fault(SequenceContext.of(x_BTD[..., 0], past, pads_B, documents_BT))
        context = context.with_tables(self.module.tables(self.module.spec), x_BTD.dtype)
        out: Tensor = self.module(x_BTD, context, state)
        return out


def at_once(run: MixerRun, x_BTD: Tensor) -> Tensor:
    return run(x_BTD)


def in_pieces(run: MixerRun, x_BTD: Tensor, sizes: Sequence[int], pads_B: Tensor | None = None) -> Tensor:
    """Reads pieces of these sizes one after another, with a state."""
    state, past, out = run.module.empty_state(), 0, []
    for piece in x_BTD.split(list(sizes), dim=1):
        out.append(run(piece, state, past, pads_B))
        past += piece.shape[1]
    return torch.cat(out, dim=1)


def padded(run: MixerRun, x_BTD: Tensor, pads: int) -> Tensor:
    """Reads the sequence with padding at its left, beside a longer sequence."""
    batch = torch.cat((torch.cat((noise(pads), x_BTD), dim=1), noise(pads + x_BTD.shape[1])))
    return run(batch, pads_B=torch.tensor([pads, 0]))[:1, pads:]


def padded_in_pieces(run: MixerRun, x_BTD: Tensor, pads: int) -> Tensor:
    """Reads the padded sequence in two pieces and single tokens, with a state."""
    batch = torch.cat((torch.cat((noise(pads), x_BTD), dim=1), noise(pads + x_BTD.shape[1])))
    sizes = [3, pads + 2, *[1] * (x_BTD.shape[1] - 5)]
    return in_pieces(run, batch, sizes, torch.tensor([pads, 0]))[:1, pads:]


def packed(run: MixerRun, x_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
    """Reads the sequence as a document between others of one row, beside a row that is packed differently."""
    place = lengths.index(x_BTD.shape[1])
    before, after = sum(lengths[:place]), sum(lengths[place + 1 :])
    row = torch.cat((noise(before), x_BTD, noise(after)), dim=1)
    numbers = torch.cat([torch.full((1, size), n) for n, size in enumerate(lengths)], dim=1)
    other = torch.arange(row.shape[1])[None] // 3
    out = run(torch.cat((row, noise(row.shape[1]))), documents_BT=torch.cat((numbers, other)))
    return out[:1, before : before + x_BTD.shape[1]]


def noise(length: int) -> Tensor:
    """Other tokens of a batch, (1, T, D)."""
    return 3 * torch.randn(1, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(length))


WAYS: Mapping[str, Run] = {
    **{f"pieces {sizes}": lambda run, x, sizes=sizes: in_pieces(run, x, sizes) for sizes in PIECES},  # type: ignore[misc]
    **{f"padded {pads}": lambda run, x, pads=pads: padded(run, x, pads) for pads in PADS},  # type: ignore[misc]
    **{f"padded {pads}, pieces": lambda run, x, pads=pads: padded_in_pieces(run, x, pads) for pads in PADS},  # type: ignore[misc]
    **{f"packed {lengths}": lambda run, x, lengths=lengths: packed(run, x, lengths) for lengths in DOCUMENTS},  # type: ignore[misc]
}


def _late(context: SequenceContext) -> SequenceContext:
    """The position after a piece is one too many."""
    return replace(context, positions_BT=context.positions_BT + (context.past > 0))


def _without_padding(context: SequenceContext) -> SequenceContext:
    return replace(context, pads_B=None, positions_BT=_counted(context))


def _without_documents(context: SequenceContext) -> SequenceContext:
    return replace(context, documents_BT=None, positions_BT=_counted(context))


def _counted(context: SequenceContext) -> Tensor:
    """Positions from the beginning of the row, whatever begins there."""
    return torch.arange(context.past, context.past + context.positions_BT.shape[1])[None]


class MixerContract(ABC):
    """One kind of mixer. `cases` are its specs by name; tests run on each."""

    cases: ClassVar[Mapping[str, Mixer]]
    sees_positions: ClassVar[frozenset[str]]
    """Cases whose output changes with the distance between tokens, so that a wrong position shows."""

    @abstractmethod
    def reference(self, spec: Mixer, weights: Mapping[str, Tensor], x_TD: Tensor) -> Tensor:
        """An implementation that shares no code with the module; returns (T, D) for one sequence."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.cases)
        if "way" in metafunc.fixturenames:
            metafunc.parametrize("way", WAYS)

    def module(self, name: str) -> MixerModule[Any]:
        """The case's module with strong random weights in float64."""
        random = torch.Generator().manual_seed(1)
        module = mixer_module(self.cases[name], WIDTH).double()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.7, generator=random)
        return module

    def sequence(self) -> Tensor:
        """The tokens that every way reads, (1, T, D)."""
        x_BTD = torch.randn(1, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        return x_BTD.requires_grad_()

    def test_the_kind_is_listed(self, name: str) -> None:
        spec = self.cases[name]
        assert type(self.module(name)) is MIXERS[type(spec)]
        shapes = {key: tuple(value.shape) for key, value in self.module(name).named_parameters()}
        assert shapes == {key: slot.shape for key, slot in spec.slots(WIDTH)}

    def test_every_norm_inside_is_declared(self, name: str) -> None:
        """Passes find and change the norms of an operation by `norms` and `with_norms` only."""
        spec = self.cases[name]
        assert {norm for _, norm, _ in spec.norms()} == {*_norms(spec)}
        assert all(norm.eps == 7.0 for norm in _norms(spec.with_norms(lambda norm: replace(norm, eps=7.0))))

    def test_output_is_that_of_the_reference(self, name: str) -> None:
        module, x_BTD = self.module(name), self.sequence()
        found = MixerRun(module)(x_BTD)[0]
        weights = dict(module.named_parameters())
        assert distance(found, self.reference(self.cases[name], weights, x_BTD[0])) < EXACT
        assert distance(found, self.reference(self.cases[name], weights, x_BTD[0].flip(0)).flip(0)) > 1e-3

    def test_it_runs_with_its_projections_in_a_file(self, name: str) -> None:
        norm = Norm("rms", 1e-5)
        program = random_program(Spec(LENGTH, WIDTH, LENGTH, (Layer(self.cases[name], None, norm, None),), norm))
        tokens_BT = torch.arange(LENGTH)[None]
        *_, found_BTD = StreamedRun(program, torch.float64).streams(tokens_BT)
        with torch.no_grad():
            entering_BTD, *_, wanted_BTD = model_of(program).streams(tokens_BT)
        assert distance(found_BTD, wanted_BTD) < EXACT
        assert distance(found_BTD, entering_BTD) > 1e-3

    def test_the_future_is_not_seen(self, name: str) -> None:
        run, x_BTD = MixerRun(self.module(name)), self.sequence()
        changed = torch.cat((x_BTD[:, :7], noise(LENGTH - 7)), dim=1)
        assert distance(run(changed)[:, :7], run(x_BTD)[:, :7]) < EXACT
        assert distance(run(changed)[:, 7:], run(x_BTD)[:, 7:]) > 1e-3

    def test_every_way_of_reading_gives_the_same(self, name: str, way: str) -> None:
        run, x_BTD = MixerRun(self.module(name)), self.sequence()
        wanted, found = (results(run, how, x_BTD) for how in (at_once, WAYS[way]))
        assert found.keys() == wanted.keys()
        for key, value in found.items():
            assert distance(value, wanted[key]) < EXACT, key

    def test_a_position_off_by_one_is_detected(self, name: str) -> None:
        run, x_BTD = MixerRun(self.module(name)), self.sequence()
        found = in_pieces(replace(run, fault=_late), x_BTD, [4, 7])
        assert (distance(found, run(x_BTD)) > 1e-3) == (name in self.sees_positions)

    def test_undeclared_padding_shows(self, name: str) -> None:
        run, x_BTD = MixerRun(self.module(name)), self.sequence()
        assert distance(padded(replace(run, fault=_without_padding), x_BTD, 5), run(x_BTD)) > 1e-3

    def test_undeclared_documents_show(self, name: str) -> None:
        run, x_BTD = MixerRun(self.module(name)), self.sequence()
        assert distance(packed(replace(run, fault=_without_documents), x_BTD, [2, LENGTH, 1]), run(x_BTD)) > 1e-3

    def test_a_forgotten_state_shows(self, name: str) -> None:
        run, x_BTD = MixerRun(self.module(name)), self.sequence()
        found = torch.cat([run(piece) for piece in x_BTD.split([4, 7], dim=1)], dim=1)
        assert distance(found, run(x_BTD)) > 1e-3

    def test_a_state_without_gradients_shows(self, name: str) -> None:
        run, x_BTD = MixerRun(self.module(name)), self.sequence()
        gradients = []
        for first in (torch.enable_grad, torch.no_grad):
            state = run.module.empty_state()
            with first():
                run(x_BTD[:, :4], state)
            gradients.append(torch.autograd.grad(run(x_BTD[:, 4:], state, 4).square().sum(), x_BTD)[0])
        assert distance(gradients[0][:, 4:], gradients[1][:, 4:]) < EXACT
        assert distance(gradients[0][:, :4], gradients[1][:, :4]) > 1e-3

    def test_sequences_of_a_state_are_selected(self, name: str) -> None:
        run, pair_BTD = MixerRun(self.module(name)), torch.cat((noise(6), 2 * noise(6)))
        with torch.no_grad():
            wanted, state = run(pair_BTD)[[1, 0, 1]], run.module.empty_state()
            run(pair_BTD[:, :4], state)
            state.change_batch(lambda x: x[[1, 0, 1]])
            assert distance(run(pair_BTD[[1, 0, 1], 4:], state, 4), wanted[:, 4:]) < EXACT

    def test_a_state_goes_back_or_says_why_not(self, name: str) -> None:
        run, x_BTD = MixerRun(self.module(name)), noise(LENGTH)
        with torch.no_grad():
            wanted, state = run(x_BTD), run.module.empty_state()
            run(x_BTD, state)
            if not state.can_crop:
                with pytest.raises(InputError, match="cannot go back"):
                    state.crop(LENGTH - 2)
                state.crop(0)
                assert distance(run(x_BTD, state), wanted) < EXACT
                return
            state.crop(LENGTH - 2)
            assert distance(run(x_BTD[:, -2:], state, LENGTH - 2), wanted[:, -2:]) < EXACT

    def test_the_state_takes_the_stated_bytes(self, name: str) -> None:
        """Within 2 %, memory that is only reserved included."""
        run, batch, past = MixerRun(self.module(name)), noise(1024).expand(2, -1, -1), 0
        state = run.module.empty_state()
        with torch.no_grad():
            for piece in batch.split([1000, 1, 1, 22], dim=1):
                run(piece, state, past)
                past += piece.shape[1]
        parts = self.cases[name].state()
        stated = 2 * sum(part.elements(past) * DTYPE_BYTES[part.dtype or "F64"] for part in parts)
        assert stated <= state.nbytes <= 1.02 * stated


def _norms(part: object) -> Iterator[Norm]:
    """Every norm in the fields of a part and of its parts."""
    if isinstance(part, Norm):
        yield part
    elif is_dataclass(part):
        for one in fields(part):
            yield from _norms(getattr(part, one.name))


def results(run: MixerRun, how: Run, x_BTD: Tensor) -> dict[str, Tensor]:
    """Output, and gradients of input and weights for one direction of the output."""
    out = how(run, x_BTD)
    weights = dict(run.module.named_parameters())
    gradients = torch.autograd.grad((out * _direction()).sum(), (x_BTD, *weights.values()))
    return {"output": out, **dict(zip(("input", *weights), gradients, strict=True))}


def _direction() -> Tensor:
    return torch.randn(1, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().abs().max())

"""Losses a chunk at a time: what the plain computation gives, without its logits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from kept.distillation.loss import chunk_size
from kept.distillation.loss.chunked_loss import Losses, chunked_loss
from kept.distillation.loss.objective import Objective
from kept.distillation.loss.output_head import HeadInput
from kept.distillation.loss.top_k import TopK, top_k
from kept.errors import InputError
from kept.ir.spec import Head
from support import plain_losses
from support.distilled import Case, cast, chunked, error, head_input, leaves, logits_of, plain_loss, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

EXACT = 1e-12
"""Relative, in float64: the same sums in another order."""

SINGLE = 1e-6
"""Relative, in float32: a dozen roundings of 6e-8, which add up as a random walk does."""


HEADS = st.builds(
    Head,
    bias=st.booleans(),
    multiplier=st.sampled_from([1.0, 0.25, 1.5]),
    softcap=st.sampled_from([None, 4.0, 30.0]),
    normalised=st.booleans(),
)


@st.composite
def objectives(draw: st.DrawFn) -> Objective:
    weights = {name: draw(st.sampled_from([0.0, 0.0, 1.0, 0.3])) for name in ("kl", "reverse_kl", "jsd", "ce")}
    if not any(weights.values()):
        weights[draw(st.sampled_from(sorted(weights)))] = 1.0
    return Objective(
        **weights, jsd_beta=draw(st.floats(0.05, 0.95)), temperature=draw(st.sampled_from([1.0, 0.5, 3.0]))
    )


@st.composite
def cases(draw: st.DrawFn, least: int = 1, size: float = 3.0) -> Case:
    """Chunks that do not divide, blocks of a row or two, no token that counts, heads of unlike widths."""
    count, vocabulary = draw(st.integers(least, 12)), draw(st.integers(2 * least, 40))
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    student, teacher = (
        head_input(count, draw(st.integers(least, 9)), vocabulary, draw(HEADS), random, size) for _ in range(2)
    )
    targets = torch.randint(0, vocabulary, (count,), generator=random)
    mask = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    cut = draw(st.integers(1, 14)), draw(st.sampled_from([32, 1 << 19]))
    return Case(student, teacher, targets, mask, draw(objectives()), *cut)


@settings(max_examples=150)
@given(cases())
def test_it_is_the_plain_computation_in_float64(case: Case) -> None:
    case = case.to(torch.float64)
    assert error(run(chunked(case), case, case.teacher), run(plain_loss, case, case.teacher)) < EXACT


@settings(max_examples=100)
@given(cases(least=4, size=1.0))
def test_it_is_the_plain_computation_in_float32(case: Case) -> None:
    """The error against float64 is at most 1.5 times that of the plain computation; no distribution is one-hot."""
    case = case.to(torch.float32)
    exact = case.to(torch.float64)
    truth = run(plain_loss, exact, exact.teacher)
    plain = error(run(plain_loss, case, case.teacher), truth)
    assert error(run(chunked(case), case, case.teacher), truth) < max(SINGLE, 1.5 * plain)


@settings(max_examples=60)
@given(cases(), st.integers(1, 50))
def test_so_it_is_with_a_cached_teacher(case: Case, k: int) -> None:
    case = replace(case.to(torch.float64), objective=replace(case.objective, kl=1.0, reverse_kl=0.0, jsd=0.0))
    cached = top_k(case.teacher, k, case.objective.temperature, case.chunk)
    assert error(run(chunked(case), case, cached), run(plain_loss, case, cached)) < EXACT


@settings(max_examples=20)
@given(cases())
def test_a_list_of_all_tokens_is_the_live_teacher(case: Case) -> None:
    case = replace(case.to(torch.float64), objective=replace(case.objective, kl=1.0, reverse_kl=0.0, jsd=0.0))
    cached = top_k(case.teacher, 50, case.objective.temperature)
    assert error(run(chunked(case), case, cached), run(chunked(case), case, case.teacher)) < EXACT


CASE = Case(
    head_input(7, 5, 30, Head(bias=True, multiplier=0.5, softcap=4.0), torch.Generator().manual_seed(1)),
    head_input(7, 3, 30, Head(), torch.Generator().manual_seed(2)),
    torch.tensor([4, 0, 29, 3, -100, 8, 8]),
    torch.tensor([1, 1, 1, 0, 0, 1, 1]),
    Objective(kl=1.0, reverse_kl=0.5, jsd=0.7, jsd_beta=0.3, ce=0.2, temperature=2.0),
    chunk=3,
    block=1 << 19,
)

OTHERS = {
    "kl": replace(CASE.objective, kl=1.001),
    "reverse_kl": replace(CASE.objective, reverse_kl=0.501),
    "jsd": replace(CASE.objective, jsd=0.701),
    "jsd_beta": replace(CASE.objective, jsd_beta=0.301),
    "ce": replace(CASE.objective, ce=0.201),
    "temperature": replace(CASE.objective, temperature=2.001),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_number_of_the_objective_shows(name: str) -> None:
    """Negative control: a thousandth more of any of them is no equality."""
    case = CASE.to(torch.float64)
    wanted = run(plain_loss, case, case.teacher)
    assert error(run(chunked(case), case, case.teacher), wanted) < EXACT
    assert error(run(chunked(case), replace(case, objective=OTHERS[name]), case.teacher), wanted) > 1e-5


@pytest.mark.parametrize("head", [Head(), Head(multiplier=0.51, softcap=4.0), Head(multiplier=0.5, softcap=4.1)])
def test_so_does_every_number_of_the_head(head: Head) -> None:
    case = CASE.to(torch.float64)
    wanted = run(plain_loss, case, case.teacher)
    other = replace(case, student=replace(case.student, head=head))
    assert error(run(chunked(other), other, case.teacher), wanted) > 1e-5


def test_masked_tokens_are_not_read() -> None:
    """They may be anything, NaN too; in the plain computation that poisons the head's gradient."""
    case = CASE.to(torch.float64)
    wanted = run(chunked(case), case, case.teacher)
    for given_ in (case.student, case.teacher):
        given_.hidden_ND.data[3:5] = math.nan
    found = run(chunked(case), case, case.teacher)
    assert error(found, wanted) == 0
    assert bool((found[1][0][3:5] == 0).all())
    assert not bool(run(plain_loss, case, case.teacher)[1][1].isfinite().all())


def test_without_a_token_that_counts_there_is_nothing_to_learn() -> None:
    case = replace(CASE.to(torch.float32), mask=torch.zeros(7))
    found = chunked(case)(case.student, case.teacher, case.targets, case.mask, case.objective)
    assert found.tokens == 0
    assert float(found.total.detach()) == float(found.agreement) == 0  # type: ignore[arg-type]
    assert set(found.means) == {"kl", "reverse_kl", "jsd", "ce"}
    assert all(not bool(x.any()) for x in torch.autograd.grad(found.total, leaves(case.student)))


def test_what_is_reported_are_nats_without_weights() -> None:
    case = CASE.to(torch.float64)
    found = chunked(case)(case.student, case.teacher, case.targets, case.mask, case.objective)
    ours, theirs, kept = logits_of(case.student), logits_of(case.teacher), case.mask != 0
    wanted = {
        "kl": plain_losses.forward_kl(theirs, ours, 2.0),
        "reverse_kl": plain_losses.reverse_kl(theirs, ours, 2.0),
        "jsd": plain_losses.jsd(theirs, ours, 0.3, 2.0),
        "ce": plain_losses.cross_entropy(ours, case.targets),
    }
    assert set(found.means) == set(wanted)
    for name, value in wanted.items():
        assert float(found.means[name]) == pytest.approx(float(value.detach()[kept].mean()), rel=EXACT)
        assert not found.means[name].requires_grad
    same = (ours.argmax(-1) == theirs.argmax(-1))[kept].double().mean()
    assert float(found.agreement) == float(same)  # type: ignore[arg-type]
    assert found.tokens == 5


def test_agreement_counts_the_tokens_both_put_first() -> None:
    weight = torch.eye(4)
    student = HeadInput(weight[[0, 1, 2, 3, 0]], weight)
    teacher = HeadInput(weight[[0, 1, 3, 3, 1]], weight)
    for known in (teacher, top_k(teacher, 2)):
        found = chunked_loss(student, known, torch.zeros(5, dtype=torch.long), torch.ones(5), Objective(), chunk=2)
        assert float(found.agreement) == pytest.approx(0.6)  # type: ignore[arg-type]


def test_tied_weights_get_both_gradients() -> None:
    """The embedding is the head: what comes through the hidden states is added to what comes from the logits."""
    case = CASE.to(torch.float64)
    tokens = torch.tensor([1, 2, 3, 1, 5, 6, 7])

    def tied(loss: Callable[..., torch.Tensor | Losses]) -> torch.Tensor:
        embedding = case.student.weight_VD.detach().clone().requires_grad_()
        student = HeadInput(embedding[tokens].tanh(), embedding)
        found = loss(student, case.teacher, case.targets, case.mask, case.objective)
        (found.total if isinstance(found, Losses) else found).backward()
        assert embedding.grad is not None
        return embedding.grad

    wanted = tied(plain_loss)
    assert float((tied(chunked(case)) - wanted).norm()) < EXACT * float(wanted.norm())


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_only_what_is_trained_gets_a_gradient(trained: int) -> None:
    case = CASE.to(torch.float64)
    wanted = run(plain_loss, case, case.teacher)[1][trained]
    for place, leaf in enumerate(leaves(case.student)):
        leaf.requires_grad_(place == trained)
    found = chunked(case)(case.student, case.teacher, case.targets, case.mask, case.objective)
    (found.total / 3).backward()
    for place, leaf in enumerate(leaves(case.student)):
        assert (leaf.grad is None) == (place != trained)
    grad = leaves(case.student)[trained].grad
    assert grad is not None
    assert float((grad - wanted).norm()) < EXACT * float(wanted.norm())
    assert all(leaf.grad is None for leaf in leaves(case.teacher)), "a teacher is not trained"


def test_evaluation_makes_no_gradient() -> None:
    case = CASE.to(torch.float64)
    wanted = chunked(case)(case.student, case.teacher, case.targets, case.mask, case.objective)
    with torch.no_grad(), Largest() as largest:
        found = chunked(case)(case.student, case.teacher, case.targets, case.mask, case.objective)
    assert not found.total.requires_grad
    assert torch.equal(found.total, wanted.total.detach())
    assert torch.ops.aten.addmm_.default not in largest.operations


def test_gradients_are_handed_out_once() -> None:
    """They are scaled in place; a second time would scale them twice."""
    case = CASE.to(torch.float64)
    total = chunked(case)(case.student, case.teacher, case.targets, case.mask, case.objective).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can run once"):
        total.backward()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.operations: set[object] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.add(func)
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_logits_of_the_whole_batch_never_exist() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = (cast(head_input(64, 4, 50, Head(softcap=9.0), random), torch.float32) for _ in range(2))
    case = Case(student, teacher, torch.zeros(64, dtype=torch.long), torch.ones(64), CASE.objective, 8, 1 << 19)
    with Largest() as cut:
        run(chunked(case), case, teacher)
    with Largest() as whole:
        run(plain_loss, case, teacher)
    assert cut.elements == 8 * 50
    assert whole.elements == 64 * 50


@pytest.mark.parametrize(("vocabulary", "rows"), [(100, 1024), (84_608, 198), (262_144, 128)])
def test_a_chunk_has_as_many_tokens_as_the_vocabulary_lets_it(vocabulary: int, rows: int) -> None:
    assert chunk_size.chunk_tokens(vocabulary) == rows
    assert chunk_size.chunk_tokens(vocabulary, host=False) == chunk_size.DEVICE_TOKENS


def test_what_nobody_says_is_the_heads_own() -> None:
    random = torch.Generator().manual_seed(0)
    student = cast(head_input(1100, 4, 50, Head(), random), torch.float32)
    with Largest() as cut:
        chunked_loss(student, None, torch.zeros(1100, dtype=torch.long), torch.ones(1100), Objective(kl=0, ce=1))
    assert cut.elements == chunk_size.chunk_tokens(50) * 50


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_no_worse_than_the_plain_computation(autocast: bool) -> None:  # noqa: FBT001 - a parameter
    """Against float64 of the same numbers; the head's gradient is summed over chunks in float32."""
    random = torch.Generator().manual_seed(5)
    student, teacher = (cast(head_input(600, 64, 300, Head(), random), torch.bfloat16) for _ in range(2))
    targets = torch.randint(0, 300, (600,), generator=random)
    half = Case(student, teacher, targets, torch.ones(600), Objective(), chunk=16, block=1 << 19)
    double = half.to(torch.float64)
    if autocast:
        half = half.to(torch.float32)
    wanted = run(plain_loss, double, double.teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found, plain = run(chunked(half), half, half.teacher), run(plain_loss, half, half.teacher)
    for mine, theirs, right in zip(found[1], plain[1], wanted[1], strict=True):
        assert mine.dtype == theirs.dtype
        lost, usual = (float((x.double() - right).norm() / right.norm()) for x in (mine, theirs))
        assert 0 < lost < 1.1 * usual < 0.05


@pytest.mark.parametrize("padded", ["student", "teacher"])
def test_rows_of_padding_are_left_out(padded: str) -> None:
    """Whatever they give: with them, the distributions would be others."""
    given = getattr(CASE, padded)
    more = torch.full((6, given.weight_VD.shape[1]), 3.0, dtype=given.weight_VD.dtype)
    bias = None if given.bias_V is None else torch.cat((given.bias_V, more[:, 0]))
    wide = replace(given, weight_VD=torch.cat((given.weight_VD, more)), bias_V=bias)
    rest = (CASE.targets, CASE.mask, CASE.objective)
    found = chunked_loss(**{"student": CASE.student, "teacher": CASE.teacher, padded: wide}, **_named(rest))
    wanted = chunked_loss(CASE.student, CASE.teacher, *rest)
    assert float(found.total) == pytest.approx(float(wanted.total), rel=1e-6)
    other = replace(wide, weight_VD=wide.weight_VD[6:], bias_V=None if bias is None else bias[6:])
    changed = chunked_loss(**{"student": CASE.student, "teacher": CASE.teacher, padded: other}, **_named(rest))
    assert abs(float(changed.total) - float(wanted.total)) > 1e-3


def _named(rest: tuple[Tensor, Tensor, Objective]) -> dict[str, Any]:
    return dict(zip(("targets_N", "mask_N", "objective"), rest, strict=True))


def test_sums_in_half_precision_would_show() -> None:
    """Negative control: 38 chunks added in bfloat16 lose more than the products do."""
    random = torch.Generator().manual_seed(5)
    parts = torch.randn(38, 100, generator=random, dtype=torch.float64) + 1
    narrow, broad = torch.zeros(100, dtype=torch.bfloat16), torch.zeros(100)
    for part in parts:
        narrow += part.bfloat16()
        broad += part.bfloat16()
    wanted = parts.sum(0)
    assert float((broad.double() - wanted).norm()) < 0.3 * float((narrow.double() - wanted).norm())


WRONG = {
    "no teacher": (None, Objective()),
    "a running teacher": (TopK(torch.zeros(7, 1).long(), torch.zeros(7, 1), torch.zeros(7)), Objective(jsd=1.0)),
    "cache it again": (TopK(torch.zeros(7, 1).long(), torch.zeros(7, 1), torch.zeros(7)), Objective(temperature=2.0)),
}


@pytest.mark.parametrize("way_out", ["set its weight to 0", "a running teacher", "cache it again"])
def test_what_does_not_fit_together_is_refused(way_out: str) -> None:
    teacher, objective = WRONG.get(way_out, WRONG["no teacher"])
    with pytest.raises(InputError, match=way_out):
        chunked_loss(CASE.student, teacher, CASE.targets, CASE.mask, objective)


def test_text_alone_needs_no_teacher() -> None:
    case = replace(CASE.to(torch.float64), objective=Objective(kl=0.0, ce=1.0))
    found = chunked(case)(case.student, None, case.targets, case.mask, case.objective)
    assert found.agreement is None
    assert set(found.means) == {"ce"}
    assert error(run(chunked(case), case, None), run(plain_loss, case, None)) < EXACT


@pytest.mark.parametrize(
    "numbers",
    [{"kl": -1.0}, {"ce": math.nan}, {"jsd_beta": 0.0}, {"jsd_beta": 1.0}, {"temperature": 0.0}],
)
def test_an_objective_makes_sense(numbers: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Objective(**numbers)

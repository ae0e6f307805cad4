"""lm-eval's requests: answered as lm-eval's own class for stock models answers them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from kept.errors import InputError
from kept.evaluation import answering
from kept.evaluation.answering import answers, batches
from kept.evaluation.harness import Harness
from kept.ir.spec import Dynamic
from support.specs import rope_of
from support.spies import noting
from support.stored import PROSE
from support.subjects import subject, tiny

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = [
    ("The keeper of the light", " counted seven ships"),
    ("The keeper of the light", " counted"),
    ("The keeper of the light", " "),
    ("The keeper of the light ", "counted"),
    ("", "seven"),
    ("한국어", " 문장"),
    (PROSE[:300], " late"),
    (PROSE[:110], PROSE[110:140]),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("llama")).loaded.path


@pytest.fixture(scope="module")
def theirs(directory: Path) -> Any:
    return HFLM(pretrained=str(directory), dtype="float32", device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def ours(directory: Path) -> Harness:
    return Harness(subject(directory, torch.float32))


def asked(*arguments: Any) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def test_likelihoods_are_lm_eval_s_own(ours: Harness, theirs: Any) -> None:
    requests = [asked(*pair) for pair in PAIRS]
    wanted = theirs.loglikelihood(requests, disable_tqdm=True)
    found = ours.loglikelihood(requests)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in wanted], abs=1e-4)


def test_rolling_likelihoods_are_lm_eval_s_own(ours: Harness, theirs: Any) -> None:
    requests = [asked(text) for text in (PROSE[:50], PROSE[:400])]
    wanted = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(wanted, abs=1e-3)


def test_answers_are_lm_eval_s_own(ours: Harness, theirs: Any) -> None:
    manner = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    requests = [asked(text, dict(manner)) for text in ("The keeper", "seven ships and one", PROSE[:300])]
    assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_an_answer_ends_before_its_first_stop_text(ours: Harness) -> None:
    free = answers(ours.subject, [ours.tok_encode("The keeper")], 24)[0]
    assert len(free) > 10
    stop = free[6:8]
    first = free.index(stop)
    assert answers(ours.subject, [ours.tok_encode("The keeper")], 24, ["never", stop]) == [free[:first]]
    manner = {"until": [stop, "never"], "max_gen_toks": 24}
    assert ours.generate_until([asked("The keeper", manner)]) == [free[:first]]


def test_a_stop_text_stops_the_work(ours: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = ours.tok_encode("The keeper")
    steps: list[Any] = []
    free = answers(ours.subject, [prompt], 24)[0]
    whole = answering.generate  # type: ignore[attr-defined]

    def counted(*arguments: Any, **options: Any) -> Any:
        return whole(*arguments, **options, progress=steps.append)

    monkeypatch.setattr(answering, "generate", counted)
    answers(ours.subject, [prompt], 24, [free[2:5]])
    assert len(steps) < 20


def test_the_same_input_runs_once(ours: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    hidden = noting(ours.subject.model.hidden, lambda tokens, **_: rows.append(len(tokens)))
    monkeypatch.setattr(ours.subject.model, "hidden", hidden)
    found = ours.loglikelihood([asked("Answer:", choice) for choice in "ABCD"])
    assert rows == [1]
    assert len({nats for nats, _ in found}) == 4


def test_a_context_runs_once_for_all_its_choices(ours: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    hidden = noting(ours.subject.model.hidden, lambda tokens, ends_BT: sizes.append((tokens.numel(), ends_BT is None)))
    monkeypatch.setattr(ours.subject.model, "hidden", hidden)
    context, choices = PROSE[:80], [" seven ships", " a lamp", " the sea at night"]
    ours.loglikelihood([asked(context, choice) for choice in choices])
    whole = [len(ours.tok_encode(context + choice)) for choice in choices]
    assert len(sizes) == 1
    assert sizes[0][0] < len(ours.tok_encode(context)) + sum(map(len, choices)) + len(choices) < sum(whole)
    assert not sizes[0][1]


def test_padding_is_bounded(ours: Harness) -> None:
    lengths = [600, 590, 200, 190, 180, 10]
    assert [*batches(ours.subject.spec, lengths)] == [[0, 1], [2, 3, 4], [5]]
    assert [*batches(ours.subject.spec, lengths, 4)] == [[0, 1, 2, 3], [4, 5]]


def test_sampled_answers_are_refused(ours: Harness) -> None:
    with pytest.raises(InputError, match="requests: asks for sampled answers"):
        ours.generate_until([asked("The keeper", {"do_sample": True, "temperature": 0.8})])


def test_a_continuation_longer_than_the_context(ours: Harness) -> None:
    (whole,) = ours.loglikelihood([asked(PROSE[:20], PROSE[20:400])])
    assert whole[0] < -380, "every token costs something"
    ids = [ours.tok_encode(PROSE[:20]), ours.tok_encode(PROSE[20:400])]
    assert whole == ours._loglikelihood_tokens([("", *ids)])[0]  # type: ignore[list-item]


def test_batches_hold_what_fits(ours: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "BATCH_TOKENS", 20)
    assert [*batches(ours.subject.spec, [3, 9, 10, 30, 2])] == [[3], [2, 1], [0, 4]]


def test_lengths_that_turn_positions_do_not_mix(tmp_path: Path) -> None:
    scaled = tiny(tmp_path, "internlm", rotary={"base": 1000, "type": "dynamic"}, max_position_embeddings=32)
    assert any(isinstance(rope_of(layer).scaling, Dynamic) for layer in scaled.spec.layers)
    assert [*batches(scaled.spec, [5, 40, 5])] == [[1], [0, 2]]


def test_small_batches_change_nothing(ours: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [asked(*pair) for pair in PAIRS]
    wanted = ours.loglikelihood(requests)
    monkeypatch.setattr(answering, "BATCH_TOKENS", 1)
    alone = ours.loglikelihood(requests)
    assert [nats for nats, _ in alone] == pytest.approx([nats for nats, _ in wanted], abs=1e-4)


def test_a_model_without_ends(tmp_path: Path) -> None:
    none = Harness(tiny(tmp_path, bos_token_id=None, eos_token_id=None))
    with pytest.raises(InputError, match="its config has no eos_token_id, which this task needs"):
        none.loglikelihood([asked("", "seven")])

"""Texts that a teacher samples: seeded, the same for each index, and continued after an interruption."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kept.commands.heal_inputs import _self_samples
from kept.commands.teacher_student import TeacherStudent
from kept.distillation.data import self_samples as module
from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import BatchStream, check_stream
from kept.distillation.data.self_samples import (
    BATCH,
    SamplingSettings,
    SelfSampler,
    prefixes,
    sample_batch,
    sampled,
    teacher_sum,
)
from kept.distillation.settings import HealSettings
from kept.distillation.settings_fields import SELF
from kept.errors import InputError, RecipeError
from kept.ir import spec as ir
from kept.loaded import open_model
from kept.nn import Model, generate
from kept.reporting import Silent
from support.heal_runs import settings
from support.logits import model_of, random_program
from support.models import write_checkpoint
from support.specs import plain_spec
from support.tokenizers_of import inside

if TYPE_CHECKING:
    from pathlib import Path

    from kept.distillation.data.token_dataset import TokenDataset

TEACHER = "0" * 64

SAMPLING = SamplingSettings(count=2 * BATCH + 3, length=12)


@pytest.fixture(scope="module")
def model() -> Model:
    made = model_of(random_program(plain_spec(), seed=3))
    made.spec = replace(made.spec, tokens=ir.TokenIds(bos=1, eos=2, pad=0))
    return made


def speaker(model: Model) -> SelfSampler:
    return SelfSampler(model.spec, model.embedding.weight.dtype, lambda: model)


def texts(tokens: TokenDataset) -> list[list[int]]:
    return [tokens.document(number, 0, 10**6).tolist() for number in range(len(tokens.table))]


def test_texts_are_the_teacher_s(model: Model, tmp_path: Path) -> None:
    found = texts(sampled(speaker(model), TEACHER, SAMPLING, tmp_path))
    assert len(found) == SAMPLING.count
    assert len({tuple(text) for text in found}) > SAMPLING.count // 2
    for text in found:
        assert text[0] == 1
        assert len(text) <= SAMPLING.length
        assert 2 not in text[:-1]
        assert len(text) > SAMPLING.length - 2 or text[-1] == 2, "a short one says that it has ended"
    cold = texts(sampled(speaker(model), TEACHER, replace(SAMPLING, temperatures=(1e-3,)), tmp_path))
    ((*begin,), *_) = prefixes(model.spec, SAMPLING, 7)
    assert len(begin) in (2, 3)
    for text in cold[:3]:
        starts = [generate(model, [text[:size]], 1) for size in (2, 3)]
        assert [text[2:3]] in starts or [text[3:4]] in starts, "cold sampling is greedy"


def test_text_i_is_the_same_for_any_count(model: Model, tmp_path: Path) -> None:
    many = texts(sampled(speaker(model), TEACHER, SAMPLING, tmp_path))
    for count in (1, BATCH, BATCH + 5):
        assert texts(sampled(speaker(model), TEACHER, replace(SAMPLING, count=count), tmp_path)) == many[:count]


def test_seeds_and_temperatures_have_texts_of_their_own(model: Model, tmp_path: Path) -> None:
    options: list[dict[str, object]] = [{}, {"seed": 1}, {"temperatures": (0.5,)}, {"temperatures": (1.0, 0.5)}]
    found = [texts(sampled(speaker(model), TEACHER, replace(SAMPLING, **o), tmp_path)) for o in options]  # type: ignore[arg-type]
    assert len({str(f) for f in found}) == 4
    assert found[3][:BATCH] == found[0][:BATCH], "batches take the temperatures in turn"
    assert found[3][BATCH : 2 * BATCH] == found[2][BATCH : 2 * BATCH]
    assert len({str(texts(sampled(speaker(model), teacher * 64, SAMPLING, tmp_path))) for teacher in "ab"}) == 1
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == 6


def test_an_interrupted_run_continues_where_it_stopped(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = texts(sampled(speaker(model), TEACHER, SAMPLING, tmp_path / "whole"))
    made: list[int] = []

    def recorded(model: Model, sampling: SamplingSettings, number: int) -> list[list[int]]:
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(number)
        return sample_batch(model, sampling, number)

    monkeypatch.setattr(module, "sample_batch", recorded)
    with pytest.raises(KeyboardInterrupt):
        sampled(speaker(model), TEACHER, SAMPLING, tmp_path / "cut")
    assert made == [0]
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        sampled(speaker(model), TEACHER, SAMPLING, tmp_path / "cut")
    assert made == [1]
    made.clear()
    (first,) = (tmp_path / "cut").rglob("batch-000000.json")
    first.write_bytes(first.read_bytes()[:-7])
    with pytest.raises(KeyboardInterrupt):
        sampled(speaker(model), TEACHER, SAMPLING, tmp_path / "cut")
    assert made == [0], "a damaged batch is sampled again"
    made.clear()
    assert texts(sampled(speaker(model), TEACHER, SAMPLING, tmp_path / "cut")) == whole
    assert made == [2]
    made.clear()
    assert texts(sampled(speaker(model), TEACHER, SAMPLING, tmp_path / "cut")) == whole
    assert made == []
    (entry,) = (tmp_path / "cut").glob("[!.]*")
    assert sorted(file.name for file in entry.iterdir()) == ["about.json", "documents.bin", "ids.bin"]


def test_one_of_two_that_ask_loads_the_model_and_none_where_it_is_cached(model: Model, tmp_path: Path) -> None:
    loaded: list[int] = []

    def load() -> Model:
        loaded.append(1)
        time.sleep(0.1)
        return model

    asked = replace(speaker(model), load=load)
    with ThreadPoolExecutor(2) as two:
        found = [*two.map(lambda _: texts(sampled(asked, TEACHER, SAMPLING, tmp_path)), range(2))]
    assert found[0] == found[1]
    assert texts(sampled(asked, TEACHER, SAMPLING, tmp_path)) == found[0]
    assert loaded == [1]


def test_a_run_samples_at_its_temperatures_and_what_its_tokenizer_knows(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[SamplingSettings] = []
    monkeypatch.setattr("kept.commands.heal_inputs.sampled", lambda _, __, sampling, **___: asked.append(sampling))
    given = settings(pair, tmp_path, tmp_path / "out", data=(SELF,), sample_temperatures="0.7, 1")
    made = TeacherStudent.open(given)
    _self_samples(given, made.teacher, Silent())
    tokenizer = inside(pair[0])
    assert tokenizer is not None
    (found,) = asked
    assert (found.temperatures, found.vocabulary) == ((0.7, 1.0), tokenizer.get_vocab_size())


@pytest.mark.parametrize("written", ["", "0", "1,0.0", "warm", "1,,2", "-1", "1e9", "nan", "9" * 999, "0.0001"])
def test_what_is_no_temperature(written: str) -> None:
    with pytest.raises(RecipeError, match=r"^sample_temperatures: is .*, it must be"):
        HealSettings(student="s", teacher="t", out="o", sample_temperatures=written)


def test_prefixes_are_drawn_from_the_vocabulary(model: Model) -> None:
    drawn = [p for seed in range(60) for p in prefixes(model.spec, SAMPLING, seed)]
    assert {p[0] for p in drawn} == {1}
    assert {len(p) for p in drawn} == {2, 3}
    assert {i for p in drawn for i in p[1:]} == set(range(3, model.spec.vocabulary))
    few = [p for seed in range(20) for p in prefixes(model.spec, replace(SAMPLING, vocabulary=10), seed)]
    assert {i for p in few for i in p[1:]} == set(range(3, 10))
    bare = replace(model.spec, tokens=ir.TokenIds(eos=(4, 5)))
    drawn = [p for seed in range(60) for p in prefixes(bare, SAMPLING, seed)]
    assert {len(p) for p in drawn} == {1, 2}
    assert {i for p in drawn for i in p} == set(range(model.spec.vocabulary)) - {4, 5}


def test_sampled_texts_are_trained_on_like_others(model: Model, tmp_path: Path) -> None:
    tokens = sampled(speaker(model), TEACHER, SAMPLING, tmp_path)
    stream = BatchStream(Mixture({"self": tokens}, hold_out=0.1), 2, 16)
    check_stream(stream, model.spec.vocabulary, model.spec.context)
    assert stream.batch_at(3).names[0].startswith("self:")
    assert stream.held_out()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 0}, "self: 0 texts"),
        ({"temperatures": ()}, "at 0 temperatures"),
        ({"temperatures": (1.0, 0.0)}, "temperature 0.0 samples nothing"),
        ({"length": 3}, "self: 3 tokens a text; ask for 4 to the model's 40"),
        ({"length": 41}, "self: 41 tokens a text; ask for 4 to the model's 40"),
    ],
)
def test_what_cannot_be_sampled(model: Model, tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sampled(speaker(model), TEACHER, replace(SAMPLING, **changes), tmp_path)  # type: ignore[arg-type]


def test_a_teacher_s_sum(tmp_path: Path) -> None:
    one = teacher_sum(open_model(write_checkpoint(tmp_path / "a", "orion")))
    assert one == teacher_sum(open_model(write_checkpoint(tmp_path / "b", "orion")))
    assert one != teacher_sum(open_model(write_checkpoint(tmp_path / "c", "llama")))
    config = tmp_path / "b" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert one != teacher_sum(open_model(tmp_path / "b"))

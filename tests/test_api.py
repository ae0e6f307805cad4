"""Python's functions take the words of the command line, say what happened in one line, and show progress if asked."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import kept
from kept import option_types
from kept.commands.cache_teacher import SHARED
from kept.commands.expand import ExpandSettings
from kept.commands.shrink import ShrinkSettings
from kept.distillation.settings import HealSettings
from kept.errors import InputError, OutputError, RecipeError
from kept.evaluation.settings import EvalSettings
from kept.recipe import Recipe
from kept.settings_model import model_fields
from kept.summary import Summarised
from support.models import write_checkpoint
from support.stored import write_readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ENDS = {"source", "out"}

KEYWORDS = {
    "PlanOptions": {*model_fields(Recipe)} - ENDS - {"to"},
    "ConvertOptions": {*model_fields(Recipe)} - ENDS - {"to"},
    "RecipeOptions": {*model_fields(Recipe)},
    "ExpandOptions": {*model_fields(ExpandSettings)} - ENDS,
    "ShrinkOptions": {*model_fields(ShrinkSettings)} - ENDS,
    "HealOptions": {*model_fields(HealSettings), "loss"} - {"student", "out"},
    "CacheOptions": {*SHARED},
    "EvaluateOptions": {*model_fields(EvalSettings)} - {"texts", "old", "new"},
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords_are_the_settings(name: str) -> None:
    assert {*getattr(option_types, name).__annotations__} == KEYWORDS[name]


def test_no_function_takes_anything() -> None:
    functions = [getattr(kept, name) for name in kept.__all__]
    rest = [
        (function.__name__, one.annotation)
        for function in functions
        if inspect.isfunction(function)
        for one in inspect.signature(function).parameters.values()
        if one.kind is one.VAR_KEYWORD
    ]
    assert len(rest) == len(KEYWORDS)
    assert all(str(annotation).startswith("Unpack[") for _, annotation in rest)


class Watching:
    """A reporter that notes the names of stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    @contextmanager
    def stage(self, name: str, *_: object) -> Iterator[Any]:
        self.stages.append(name)
        yield lambda _: None


def test_heal_takes_the_words_of_the_command(tmp_path: Path) -> None:
    model, watch = write_readable(tmp_path / "model", "llama"), Watching()
    small = {"tokens": "1K", "sequence_length": 16, "batch_size": 2, "eval_every": 8, "hold_out": 0.1}
    lines = tmp_path / "text.jsonl"
    lines.write_text("".join(f'{{"text": "The keeper counts {n} ships."}}\n' for n in range(40)))
    options: Any = {**small, "data": str(lines), "device": "cpu", "dtype": "fp32"}
    done = kept.heal(model, tmp_path / "out", loss="ce", learning_rate=1e-3, progress=watch, **options)
    assert watch.stages
    assert (done.record["healed"]["settings"]["learning_rate"], done.record["healed"]["settings"]["dtype"]) == (
        1e-3,
        "float32",
    )
    assert repr(done).startswith(f"HealResult(path: {tmp_path / 'out'}, trained parameters: ")
    with pytest.raises(OutputError, match="exists already"):
        kept.heal(model, tmp_path / "out", loss="ce", **options)
    kept.heal(model, tmp_path / "out", loss="ce", force=True, **options)
    assert (tmp_path / "out.backup-1" / "kept.json").is_file()
    with pytest.raises(RecipeError, match="rate: is now learning_rate"):
        kept.heal(model, tmp_path / "x", rate=1e-3)  # type: ignore[call-arg]


def test_what_is_no_progress_is_named(tmp_path: Path) -> None:
    wrong: Any = "bar"
    with pytest.raises(InputError, match=r"progress: is 'bar', it must be True, False or a kept\.Reporter"):
        kept.check(write_checkpoint(tmp_path / "source", "llama"), progress=wrong)


def test_progress_is_opt_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kept.progress_bars.SHOWN_AFTER", -1.0)
    source = write_checkpoint(tmp_path / "source", "llama")
    kept.convert(source, tmp_path / "a", verify_tokens=0)
    assert capsys.readouterr() == ("", "")
    kept.convert(source, tmp_path / "b", verify_tokens=0, progress=True)
    assert "write" in capsys.readouterr().err


def test_results_are_one_line_and_a_small_table(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "so<urce", "orion")
    done = kept.convert(source, tmp_path / "out")
    results = [done, done.plan, done.verification, kept.check(done.path), kept.open_model(source), kept.plan(source)]
    assert done.verification is not None
    assert repr(done).endswith(f"verdict: {done.verification.verdict})")
    for result in results:
        assert isinstance(result, Summarised)
        assert "\n" not in repr(result)
        assert len(repr(result)) < 500
        assert "so<urce" not in result._repr_html_()
    assert "so&lt;urce" in kept.open_model(source)._repr_html_()


class Odd(Summarised):
    def summary(self) -> Mapping[str, str]:
        return {"a": "<script>\x1b[31m"}


def test_texts_of_models_do_no_harm() -> None:
    assert repr(Odd()) == r"Odd(a: <script>\x1b[31m)"
    assert "&lt;script&gt;" in Odd()._repr_html_()

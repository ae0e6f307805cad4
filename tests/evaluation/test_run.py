"""The whole of it: two models side by side, on disk what is finished, and every mistake one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import kept
from kept.cli.display import evaluation as display
from kept.cli.root import main
from kept.errors import CheckpointError, InputError, KeptError, RecipeError
from kept.evaluation.catalog import TaskGroup
from kept.evaluation.estimate import Figure, mean
from kept.evaluation.evaluation_data import EvaluationRow
from kept.evaluation.measurements import MeasurementPlan
from kept.evaluation.run import Evaluation, _rows
from kept.evaluation.settings import EvalSettings
from kept.nn.model import Model
from support.judge_stub import Stub
from support.models import write_checkpoint
from support.shared_data import DATA, needs_data
from support.spies import noting
from support.stored import PROSE, change_json, write_readable
from support.stub_server import serving
from support.task_data import write_lines, write_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EVALS = DATA / "evals"


@pytest.fixture(scope="module")
def orion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("source") / "orion", "orion", max_position_embeddings=512)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, orion: Path) -> Path:
    return kept.convert(orion, tmp_path_factory.mktemp("made") / "out", verify_tokens=0).path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "prose.txt"
    file.write_text(PROSE * 6, encoding="utf-8")
    return file


def row(rows: Sequence[EvaluationRow], part: str, metric: str) -> EvaluationRow:
    (found,) = [one for one in rows if (one.part, one.metric) == (part, metric)]
    return found


def test_two_models_side_by_side(orion: Path, out: Path, text: Path, tmp_path: Path) -> None:
    tasks = ["positions", "agreement", "passkey"]
    found = kept.evaluate(
        orion, out, texts={"prose": text}, tasks=tasks, limit=2, results=tmp_path / "r", max_length=400, dtype="float64"
    )
    assert [(model.name, model.family, model.dtype) for model in found.models] == [
        ("orion", "orion", "float64"),
        ("out", "llama", "float64"),
    ]
    perplexity = row(found.rows, "text", "perplexity")
    assert perplexity.models[0].value == pytest.approx(perplexity.models[1].value, rel=1e-4)
    (apart,) = perplexity.differences
    assert abs(apart.value) < 1e-2 * perplexity.models[0].value
    assert apart.error < perplexity.models[0].error
    same = row(found.rows, "agreement", "same greedy token")
    assert same.models == ()
    (agreement,) = same.agreements
    assert agreement is not None
    assert agreement.value > 0.99
    assert row(found.rows, "positions", "at 200 to 400").items >= 2
    assert len(found.texts["agreement: greedy"]) == 2
    assert len(found.texts["agreement: greedy"][0]) == 2


def test_domains_are_measured_apart(orion: Path, text: Path, tmp_path: Path) -> None:
    code = tmp_path / "code.txt"
    code.write_text("def add(left, right):\n    return left + right\n\n" * 80, encoding="utf-8")
    both = kept.evaluate(orion, texts={"prose": text, "code": code}, tasks=("positions",), results=tmp_path / "r")
    for name, file in (("prose", text), ("code", code)):
        alone = kept.evaluate(orion, texts={name: file}, tasks=("positions",), results=tmp_path / "alone")
        assert [one for one in both.rows if one.name == name] == [*alone.rows]
    first, other = ([one.models for one in both.rows if one.name == name] for name in ("prose", "code"))
    assert not any(a == b for a, b in zip(first, other, strict=True))


def test_one_model_on_the_built_in_sample(orion: Path, tmp_path: Path) -> None:
    found = kept.evaluate(orion, results=tmp_path / "r")
    assert [(one.part, one.name, one.metric) for one in found.rows] == [
        ("text", "sample", "perplexity"),
        ("text", "sample", "bits per byte"),
    ]
    assert found.rows[0].differences == ()
    assert found.forgetting is None
    assert found.models[0].dtype == "float32"


def test_what_is_finished_is_not_measured_again(
    orion: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"texts": {"prose": text}, "results": tmp_path / "r", "tasks": ("positions",)}
    first = kept.evaluate(orion, **asked)
    loaded: list[int] = []
    monkeypatch.setattr(Model, "load", noting(Model.load, lambda *_: loaded.append(1)))
    assert kept.evaluate(orion, **asked) == first
    assert not loaded, "no weight is read"
    for piece in (tmp_path / "r").glob("positions*"):
        piece.unlink()
    assert kept.evaluate(orion, **asked) == first
    assert loaded == [1]
    kept.evaluate(orion, **asked, stride=100)
    assert loaded == [1, 1], "other settings are another run"
    text.write_text(PROSE * 7, encoding="utf-8")
    kept.evaluate(orion, **asked)
    assert loaded == [1, 1, 1], "another text too"


@pytest.mark.parametrize("damage", [{}, {"passages": []}, {"passages": [[1, 2]]}, {"passages": [["x", 1, 1]]}])
def test_a_damaged_result_is_named(orion: Path, text: Path, tmp_path: Path, damage: dict[str, Any]) -> None:
    results = tmp_path / "results"
    kept.evaluate(orion, texts={"prose": text}, results=results)
    (file,) = results.iterdir()
    change_json(file, found=damage)
    with pytest.raises(CheckpointError, match=r"text-prose-.*json: a result is not as kept writes it .*; remove it"):
        kept.evaluate(orion, texts={"prose": text}, results=results)


def test_another_file_of_weights_is_another_model(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "a", "llama")
    first = kept.evaluate(source, results=tmp_path / "r")
    write_readable(source, "llama", seed=3)
    second = kept.evaluate(source, results=tmp_path / "r")
    assert first.rows != second.rows
    assert first.models[0].identity != second.models[0].identity


def test_interrupted_it_continues(orion: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kept.evaluation import positions

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    asked: dict[str, Any] = {"texts": {"prose": text}, "results": tmp_path / "r", "tasks": ("positions",)}
    with monkeypatch.context() as patched:
        patched.setattr(positions, "measure_positions", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kept.evaluate(orion, **asked)
    assert [file.name[:4] for file in (tmp_path / "r").iterdir()] == ["text"]
    assert kept.evaluate(orion, **asked) == kept.evaluate(orion, **{**asked, "results": tmp_path / "other"})


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "falcon", "internlm2", "cohere"])
def test_any_family(tmp_path: Path, family: str) -> None:
    source = write_readable(tmp_path / family, family)
    assert math.isfinite(kept.evaluate(source, results=tmp_path / "r").rows[0].models[0].value)


# --------------------------------------------------------------------------------------------------------------- suites


def test_tasks_and_groups_of_lm_eval(orion: Path, out: Path, tmp_path: Path) -> None:
    data = write_tasks(tmp_path / "data")
    asked: dict[str, Any] = {"data": data, "results": tmp_path / "r", "dtype": "float32"}
    found = kept.evaluate(orion, out, tasks=("arc_easy, piqa",), limit=4, **asked)
    assert [(one.part, one.name, one.metric, one.items) for one in found.rows] == [
        (name, name, metric, 4) for name in ("arc_easy", "piqa") for metric in ("acc", "acc_norm")
    ]
    for one in found.rows:
        assert one.models[0].low < one.models[0].value < one.models[0].high or one.models[0].value in {0, 1}
        assert one.differences[0].low < 0 < one.differences[0].high, "four items prove nothing"
    files = {file.name for file in (tmp_path / "r").iterdir()}
    assert kept.evaluate(orion, out, tasks=("arc_easy", "piqa"), limit=4, **asked).rows == found.rows
    assert {file.name for file in (tmp_path / "r").iterdir()} == files, "nothing is measured again"
    kept.evaluate(orion, tasks=("arc_easy",), limit=4, num_fewshot=1, **asked)
    assert len([*(tmp_path / "r").iterdir()]) == len(files) + 1, "other prompts are another measurement"


def test_samples_are_written(orion: Path, tmp_path: Path) -> None:
    data = write_tasks(tmp_path / "data")
    kept.evaluate(orion, tasks="piqa", data=data, limit=3, log_samples=True, results=tmp_path / "r")
    (file,) = (tmp_path / "r").glob("samples-piqa-*.jsonl")
    first, *rest = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert len(rest) == 2
    assert first["arguments"][0] == ["Question: Carry the light\nAnswer:", " with both hands"]
    assert {"acc", "acc_norm", "resps", "target"} <= first.keys()


def test_a_task_of_the_user_with_a_chat_template(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "llama", "llama", max_position_embeddings=512)
    write_lines(tmp_path / "data/mine/test.jsonl", [{"q": f"Who is {n}?", "a": n % 2} for n in range(4)])
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text(
        "task: mine\ndataset_path: mine\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{q}}'\n"
        "doc_to_target: a\ndoc_to_choice: [me, you]\n"
    )
    asked: dict[str, Any] = {"tasks": "mine", "data": tmp_path / "data", "include_path": tmp_path / "tasks"}
    asked |= {"results": tmp_path / "r", "apply_chat_template": True, "log_samples": True}
    with pytest.raises(InputError, match="has no chat template; leave out"):
        kept.evaluate(source, **asked)
    change_json(source / "tokenizer_config.json", chat_template="{% for m in messages %}<{{ m.content }}>{% endfor %}:")
    assert kept.evaluate(source, **asked).rows[0].items == 4
    (file,) = (tmp_path / "r").glob("samples-mine-*.jsonl")
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[0])["arguments"][0] == ["<Who is 0?>:", "me"]


def plan(name: str, *groups: TaskGroup) -> MeasurementPlan:
    return MeasurementPlan("part", name, lambda *_: {}, lambda found: {"acc": mean(found["acc"])}, groups=groups)


def test_averages_of_groups() -> None:
    mmlu, whole = TaskGroup("mmlu", (("acc", True),)), TaskGroup("h6")
    plans = [plan("one", whole), plan("two", whole, mmlu), plan("three", whole, mmlu)]
    results = [{"acc": [1.0, 0.0]}, {"acc": [1.0]}, {"acc": [0.0, 0.0, 0.0]}]
    found = [*_rows(plans, [results])]
    assert [(one.name, one.detail, one.models[0].value) for one in found] == [
        ("one", False, 0.5),
        ("two", True, 1.0),
        ("three", True, 0.0),
        ("h6", False, 0.375),
        ("mmlu", True, 0.25),
    ]
    blimp = TaskGroup("blimp", (("acc", False),))
    found = [*_rows([plan("one", blimp), plan("two", blimp)], [results[1:]])]
    assert [(one.name, one.detail, one.models[0].value) for one in found[2:]] == [("blimp", False, 0.5)]


@needs_data
def test_mt_bench_with_a_judge(orion: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.evaluation.mt_bench.NEW_TOKENS", 4)
    with serving(Stub()) as stub:
        asked: dict[str, Any] = {"tasks": ("mt-bench",), "data": EVALS, "limit": 1, "results": tmp_path / "r"}
        plain = kept.evaluate(orion, out, **asked)
        assert not stub.asked
        assert {one.metric for one in plain.rows} == {"identical text", "common prefix"}
        found = kept.evaluate(orion, out, **asked, judge=stub.url, judge_model="grader")
        # Answers that are equal are judged once.
        equal = sum(a == b for a, b in zip(*plain.texts["mt-bench: math answers"], strict=True))
        assert 16 <= len(stub.asked) <= 32 - 2 * equal
    average = [one for one in found.rows if one.name == "average"]
    assert average[0].models[0].value == 7
    assert average[0].differences[0].value == 0
    assert len(found.texts["mt-bench: math answers"][0][0]) == 2


@needs_data
def test_humaneval_runs_code_only_where_allowed(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.evaluation.humaneval.NEW_TOKENS", 4)
    asked: dict[str, Any] = {"tasks": ("humaneval",), "data": EVALS, "limit": 1, "results": tmp_path / "r"}
    with pytest.raises(RecipeError, match="humaneval: runs code that the model writes"):
        kept.evaluate(orion, **asked)
    assert kept.evaluate(orion, **asked, execute=True).rows[0].models[0].value == 0


# ----------------------------------------------------------------------------------------------------- the command line


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_in_words(orion: Path, out: Path, text: Path, tmp_path: Path) -> None:
    result = run("eval", orion, out, "--text", f"prose={text}", "--results", tmp_path / "r", "--tasks", "agreement")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("orion: orion, float32\nout: llama, float32\n")
    for word in ("text: prose", "perplexity", "bits per byte", "difference", "±", "same greedy token"):
        assert word in result.stdout


@pytest.mark.parametrize(("error", "hints"), [(1713.0, 1), (math.nan, 1), (499.0, 0)])
def test_too_few_passages_are_hinted_at(capsys: pytest.CaptureFixture[str], error: float, hints: int) -> None:
    rows = [EvaluationRow("text", "en", metric, 3, (Figure(999.0, error),)) for metric in ("perplexity", "other")]
    display.evaluation(Evaluation((), EvalSettings(), tuple(rows), {}))
    assert capsys.readouterr().err.count("text: en: too few passages for a figure (3); --text names") == hints


def test_the_command_as_data_and_in_a_file(orion: Path, text: Path, tmp_path: Path) -> None:
    result = run("eval", orion, "--text", text, "--results", tmp_path / "r", "--json", "--out", tmp_path / "o.json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert found["rows"][0]["name"] == "prose.txt"
    assert found["settings"]["max_characters"] == 200_000
    assert set(found) == {"models", "settings", "rows", "texts", "forgetting"}


WRONG = [
    ("--tasks hellaswg", "tasks: no task is called 'hellaswg'; did you mean hellaswag?; see --list-tasks"),
    ("--tasks piqa", "piqa: its documents (baber/piqa) are neither in DIR/baber/piqa nor in the hub's cache"),
    ("--tasks piqa --data {new}", "hf download baber/piqa --repo-type dataset --local-dir {new}/baber/piqa"),
    ("--tasks piqa --data {new}/gone", "gone: is not a directory; give the directory of the tasks' files with --data"),
    ("--tasks piqa --include-path {new}/gone", "gone: is not a directory; give a directory of YAML files"),
    ("--tasks mt-bench", "mt-bench: needs the files of its tasks; give their directory with --data DIR"),
    ("--batch-size 0", "batch_size: is 0, it must be at least 1"),
    ("--batch-size many", "batch_size: is 'many', it must be a whole number"),
    ("--tasks mt-bench --data {new}", "reference_gpt-4.jsonl: missing"),
    ("--tasks agreement", "agreement: compares two models; give a second model"),
    ("--tasks humaneval --data {new}", "allow it with --execute"),
    ("--tasks passkey --max-length 9999", "max_length: is 9999, but "),
    ("--tasks passkey --max-length 64", "64 tokens are too few for a passkey prompt"),
    ("--text {new}/gone.txt", "gone.txt: cannot be read"),
    ("--window 1", "window: is 1, it must be at least 2"),
    ("--stride 0", "stride: is 0, it must be at least 1"),
    ("--limit 0", "limit: is 0, it must be at least 1"),
    ("--dtype fp8", "dtype: is 'fp8'; it must be one of"),
    ("--device nowhere", "device: is 'nowhere'; it must be auto, cpu, cuda or cuda:N"),
    ("--out /dev/null/o.json", "o.json: cannot be written"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_what_is_wrong_is_one_line(orion: Path, tmp_path: Path, arguments: str, words: str) -> None:
    result = run("eval", orion, "--results", tmp_path / "r", *arguments.format(new=tmp_path).split())
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert words.format(new=tmp_path) in line


def test_texts_of_one_name(orion: Path) -> None:
    result = run("eval", orion, "--text", "a=x.txt", "--text", "a=y.txt")
    assert result.exit_code == 2
    assert "Two texts are called 'a'" in result.stderr


def test_a_file_with_an_equals_sign_in_its_name(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.txt").write_text(PROSE * 6, encoding="utf-8")
    result = run("eval", orion, "--text", "a=b.txt", "--results", tmp_path / "r", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["settings"]["texts"] == {"a=b.txt": "a=b.txt"}


def test_a_domain_without_a_file(orion: Path) -> None:
    result = run("eval", orion, "--old", "stories=")
    assert result.exit_code == 2
    assert "'stories=' names no file; write it as DOMAIN=FILE." in result.stderr


def test_invalid_settings_are_refused(orion: Path) -> None:
    with pytest.raises(RecipeError, match="colour: is not an option of an evaluation"):
        kept.evaluate(orion, colour="red")  # type: ignore[call-arg]
    assert replace(EvalSettings(), limit=3).limit == 3


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "llama", "llama")
    small = tmp_path / "small"
    write_checkpoint(small, "llama")
    (small / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    with pytest.raises(KeptError, match=r"its tokenizer gives id .*, the model has 97 tokens"):
        kept.evaluate(small, results=tmp_path / "r")


def test_without_lm_eval(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kept.evaluation import catalog

    monkeypatch.setattr(catalog, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"tasks: need lm-eval, which is not installed: pip install 'kept\[eval\]'"):
        kept.evaluate(orion, tasks=("blimp",), data=tmp_path)


def test_a_config_with_other_special_tokens_is_another_model(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "a", "llama")
    before = kept.evaluate(source, results=tmp_path / "r").models[0].identity
    change_json(source / "tokenizer_config.json", note="changed")
    assert kept.evaluate(source, results=tmp_path / "r").models[0].identity != before

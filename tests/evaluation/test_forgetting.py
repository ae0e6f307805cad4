"""Learning and forgetting: signs, units, means, and verdicts only beyond two standard errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import kept
from kept.cli.root import main
from kept.errors import InputError
from kept.evaluation.forgetting import DomainsChange, Forgetting, forgetting
from kept.evaluation.named_models import named_models
from kept.evaluation.settings import EvalSettings
from support.models import write_checkpoint
from support.stored import PROSE, write_readable, write_sentencepiece

if TYPE_CHECKING:
    from collections.abc import Sequence

CODE = "def add(left, right):\n    return left + right\n\n" * 80
BYTES, TOKENS = 1000, 500


def passages(*nats: float, tokens: int = TOKENS) -> dict[str, Any]:
    """Return the result of a text from the nats per token of each passage."""
    return {"passages": [[one * tokens, tokens, BYTES] for one in nats]}


def found(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> Forgetting:
    settings = EvalSettings(texts={"en": Path("en"), "py": Path("py")}, old=("en",), new=("py",))
    names = ["base", *(f"model {n}" for n in range(1, len(old)))]
    made = forgetting(settings, names, {"en": old, "py": new})
    assert made is not None
    return made


def side(of: DomainsChange | None) -> DomainsChange:
    assert of is not None
    return of


# -------------------------------------------------------------------------------------------------------------- figures


def test_lower_is_learned_and_higher_is_forgotten() -> None:
    made = found([passages(1.0, 1.2), passages(1.5, 1.9)], [passages(4.0, 5.0), passages(3.0, 4.4)])
    (method,) = made.methods
    assert made.unit == "token"
    learned, forgot = side(method.learned).mean, side(method.forgot).mean
    assert learned.per("token").value == pytest.approx(0.8)
    assert forgot.per("token").value == pytest.approx(0.6)
    # The textbook's error of a mean of two paired differences: half of what they are apart.
    assert learned.per("token").error == pytest.approx(0.2)
    assert forgot.per("token").error == pytest.approx(0.1)
    assert learned.byte.value == pytest.approx(0.8 * TOKENS / BYTES)
    before, after = side(method.forgot).domains[0].perplexity
    assert (before, after) == pytest.approx((math.exp(1.1), math.exp(1.7)))


def test_words_only_beyond_two_standard_errors() -> None:
    base = passages(1.0, 1.2)
    for after, words in (
        (passages(1.5, 1.9), "forgot en"),
        (passages(0.5, 0.5), "better at en"),
        (passages(1.1, 2.0), ""),
        (base, ""),
    ):
        (method,) = found([base, after], [base, base]).methods
        assert method.verdict == words
    (method,) = found([base, base], [base, passages(1.5, 1.9)]).methods
    assert method.verdict == "worse at py"
    one = passages(1.0)
    (method,) = found([one, passages(9.0)], [one, passages(0.1)]).methods
    assert method.verdict == "", "one passage tells no error"


def test_bytes_compare_where_tokens_do_not() -> None:
    base, other = passages(1.0, 1.2), passages(2.0, 2.4, tokens=TOKENS // 2)
    made = found([base, other, base], [base, other, base])
    assert made.unit == "byte"
    first, second = made.methods
    assert side(first.forgot).mean.token is None
    assert side(first.forgot).mean.byte.value == pytest.approx(0.0)
    assert side(second.forgot).mean.token is not None, "this one cuts texts as the first"


def test_the_mean_is_over_domains() -> None:
    settings = EvalSettings(old=("en", "ko"))
    base = passages(1.0, 1.0)
    texts = {"en": [base, passages(1.2, 1.4)], "ko": [base, passages(2.0, 2.0)]}
    made = forgetting(settings, ["base", "full"], texts)
    assert made is not None
    (method,) = made.methods
    assert method.learned is None
    assert side(method.forgot).mean.per("token").value == pytest.approx(0.65)
    assert side(method.forgot).mean.per("token").error < side(method.forgot).domains[0].nats.per("token").error
    assert method.verdict == "forgot en, ko"


def test_without_roles_there_is_nothing_to_tell() -> None:
    assert forgetting(EvalSettings(), ["base", "full"], {"en": [passages(1.0), passages(2.0)]}) is None


# --------------------------------------------------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_readable(folder / f"model-{n}", "llama", seed=n) for n in range(3)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    for name, words in (("prose", PROSE * 3), ("code", CODE)):
        (folder / name).write_text(words, encoding="utf-8")
    return {name: folder / name for name in ("prose", "code")}


def test_three_models(models: list[Path], files: dict[str, Path], tmp_path: Path) -> None:
    old, new = {"prose": files["prose"]}, {"code": files["code"]}
    made = kept.evaluate(*models, old=old, new=new, tasks=("agreement",), limit=2, results=tmp_path)
    assert made.forgetting is not None
    assert [method.model for method in made.forgetting.methods] == ["model-1", "model-2"]
    costs = {row.name: row for row in made.rows if row.metric == "perplexity"}
    for n, method in enumerate(made.forgetting.methods, 1):
        values = [math.log(one.value) for one in costs["code"].models]
        assert side(method.learned).mean.per("token").value == pytest.approx(values[0] - values[n])
        assert side(method.forgot).domains[0].perplexity[1] == costs["prose"].models[n].value
    assert {len(row.differences) for row in made.rows if row.models} == {2}
    same = [row for row in made.rows if row.metric == "same greedy token"]
    assert len(same[0].agreements) == 2
    # Each is compared with the first as if it were alone.
    for n in (1, 2):
        alone = kept.evaluate(models[0], models[n], old=old, new=new, tasks=("agreement",), limit=2, results=tmp_path)
        assert alone.forgetting is not None
        assert alone.forgetting.methods == made.forgetting.methods[n - 1 : n]
        assert [row.differences for row in alone.rows] == [row.differences[n - 1 : n] for row in made.rows]
        assert [row.agreements for row in alone.rows] == [row.agreements[n - 1 : n] for row in made.rows]


def test_roles_exchanged_the_sign_turns(models: list[Path], files: dict[str, Path], tmp_path: Path) -> None:
    domain = {"prose": files["prose"]}
    one = kept.evaluate(*models[:2], old=domain, results=tmp_path).forgetting
    other = kept.evaluate(*models[:2], new=domain, results=tmp_path).forgetting
    assert one is not None
    assert other is not None
    assert side(one.methods[0].forgot).mean.byte.value == -side(other.methods[0].learned).mean.byte.value != 0


def test_another_tokenizer(models: list[Path], files: dict[str, Path], tmp_path: Path) -> None:
    other = write_sentencepiece(write_checkpoint(tmp_path / "pieces", "llama", vocab_size=320))
    tasks = ("agreement",)
    made = kept.evaluate(models[0], other, models[1], old=files, tasks=tasks, limit=1, results=tmp_path / "r")
    assert made.forgetting is not None
    assert made.forgetting.unit == "byte"
    (same,) = [row for row in made.rows if row.metric == "same greedy token"]
    assert same.agreements[0] is None, "its tokens are others"
    assert same.agreements[1] is not None


# ---------------------------------------------------------------------------------------------------------------- names


def test_names(models: list[Path], tmp_path: Path) -> None:
    first, other, _ = models
    assert [*named_models([first, f"pro={other}"])] == ["model-0", "pro"]
    twin = tmp_path / first.name
    twin.symlink_to(first)
    assert [*named_models([first, twin, other])] == [str(first), str(twin), "model-1"], "told apart by their paths"
    assert [*named_models([f"model-1={first}", other])] == ["model-1", str(other)]
    odd = tmp_path / "a=b"
    odd.symlink_to(first)
    assert len(named_models([str(odd)])) == 1, "what is there is a path"
    for twice in ([first, first], [f"a={first}", f"a={other}"]):
        with pytest.raises(InputError, match=r"another model has the name '.*'; name them: a=.* b="):
            named_models(twice)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["eval", *(str(argument) for argument in arguments)])


def test_the_command(models: list[Path], files: dict[str, Path], tmp_path: Path) -> None:
    asked = [
        models[0],
        f"pro={models[1]}",
        f"full={models[2]}",
        "--old",
        f"tales={files['prose']}",
        "--results",
        tmp_path,
    ]
    said = run(*asked, "--new", f"py={files['code']}", "--tasks", "agreement", "--limit", 2)
    assert said.exit_code == 0, said.output
    for words in ("learned: py", "forgot: tales", "beyond two standard errors", "identical text in full"):
        assert words in said.stdout
    assert "learned: decrease of the loss from model-0, nats per token; forgot: increase" in said.stdout
    as_data = json.loads(run(*asked, "--json").stdout)
    assert as_data["settings"]["old"] == ["tales"]
    methods = as_data["forgetting"]["methods"]
    assert [(one["model"], one["learned"]) for one in methods] == [("pro", None), ("full", None)]
    assert set(methods[0]["forgot"]["domains"][0]) == {"domain", "nats", "perplexity"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("{model} --old {text}", "old: compares models with the first; give a second model"),
        ("{model} {model}", "another model has the name"),
        ("{model} pro=", "pro: has no path; write pro=out/pro"),
        ("{model} {other} --old a={text} --text a={text}", "a: two texts have this name; rename one"),
        ("{model} {other} gone=nowhere --new {text}", "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(
    models: list[Path], files: dict[str, Path], tmp_path: Path, arguments: str, words: str
) -> None:
    given = arguments.format(model=models[0], other=models[1], text=files["prose"])
    said = run(*given.split(), "--results", tmp_path / "r")
    assert said.exit_code == 2, said.output
    assert said.stdout == ""
    (line,) = said.stderr.splitlines()
    assert words in line
    assert not (tmp_path / "r").exists(), "nothing was measured"

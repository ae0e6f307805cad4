"""A teacher on disk stands for the live one: the same loss where all tokens are kept, and no less than is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import kept
from kept.commands.cache_teacher import run_cache_teacher
from kept.commands.heal import run_heal
from kept.distillation import teacher_cache
from kept.distillation.train.end_to_end import EndToEnd
from kept.errors import InputError, OutputError, RecipeError
from support.heal_runs import finish, losses, settings, start
from support.spies import noting
from support.stored import all_bytes, read_json, write_readable

if TYPE_CHECKING:
    from kept.commands.write_teacher_cache import CachedTeacher
    from kept.distillation.data.packing import Batch
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.end_to_end import TeacherOutput

K = 5


def caching(pair: tuple[Path, Path], corpus: Path, out: Path, **changes: Any) -> HealSettings:
    return replace(settings(pair, corpus, out), student=str(pair[1]), **changes)


@pytest.fixture(scope="module")
def whole(pair: tuple[Path, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> CachedTeacher:
    """All tokens of each distribution."""
    return run_cache_teacher(caching(pair, corpus, tmp_path_factory.mktemp("whole") / "teacher"), top_k=10**6)


@pytest.fixture(scope="module")
def listed(pair: tuple[Path, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> CachedTeacher:
    return run_cache_teacher(caching(pair, corpus, tmp_path_factory.mktemp("listed") / "teacher"), top_k=K)


def test_with_all_tokens_it_is_the_live_teacher(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, whole: CachedTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = settings(pair, corpus, tmp_path / "cached", teacher_cache=str(whole.path), kl=1.0, ce=0.1)
    run_heal(cached)
    teacher, original = trunk(pair[0]), EndToEnd._teacher_output

    def live(self: EndToEnd, batch: Batch) -> TeacherOutput:  # the same rows, and the teacher itself
        assert isinstance(self.teacher, teacher_cache.TeacherCache)
        return original(replace(self, teacher=teacher), batch)

    monkeypatch.setattr(EndToEnd, "_teacher_output", live)
    run_heal(replace(cached, out=str(tmp_path / "live")))
    found, wanted = (losses(tmp_path / name) for name in ("cached", "live"))
    assert found == pytest.approx(wanted, rel=1e-5)


def trunk(path: Path) -> Any:
    from kept.distillation.train.backbone import Backbone
    from kept.nn import Model

    return Backbone(Model.load(kept.open_model(path).program, torch.float32))


def test_what_is_kept_is_what_the_teacher_puts_out(
    pair: tuple[Path, Path], corpus: Path, listed: CachedTeacher, whole: CachedTeacher
) -> None:
    short, full = (teacher_cache.TeacherCache.open(one.path) for one in (listed, whole))
    assert short.rows["log_probs"].shape == (*full.rows.shape, K)
    assert (short.rows["ids"] == full.rows["ids"][..., :K]).all()
    assert abs(full.rows["tail"]).max() < 1e-6
    rest = 1 - torch.from_numpy(short.rows["log_probs"].copy()).exp().sum(-1)
    assert torch.allclose(torch.from_numpy(short.rows["tail"].copy()), rest, atol=1e-5)


def test_a_cached_run_heals_and_says_with_what(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher
) -> None:
    given = settings(pair, corpus, tmp_path / "out", teacher_cache=str(listed.path), teacher=None, tokens=60 * 128)
    losses = [one.losses["loss"] for one in run_heal(given).history]
    assert min(losses) < 0.75 * losses[0]
    record = read_json(tmp_path / "out" / "kept.json")["healed"]["teacher_cache"]
    assert record == listed.about
    assert (record["k"], record["temperature"], record["format"]) == (K, 1.0, teacher_cache.FORMAT)


def test_the_bias_is_measured_and_falls_with_k(listed: CachedTeacher, whole: CachedTeacher) -> None:
    found = listed.about["bias"]
    assert found["against"] == "the student"
    assert [one["k"] for one in found["by_k"]] == [1, K, 4 * K]
    assert found["by_k"][0]["bias"] < found["by_k"][1]["bias"] < found["by_k"][2]["bias"] < 0
    assert abs(whole.about["bias"]["by_k"][-1]["bias"]) < 1e-6
    assert found["by_k"][1]["full"] == pytest.approx(whole.about["bias"]["by_k"][-1]["full"], rel=1e-6)


def test_without_a_student_it_is_measured_against_a_shorter_teacher(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    given = caching(pair, corpus, tmp_path / "teacher", tokens=64)
    found = run_cache_teacher(replace(given, student=str(given.teacher)), top_k=K).about["bias"]
    assert found["against"] == "the teacher without its last layer"
    assert found["by_k"][1]["full"] > 0 > found["by_k"][1]["bias"]


def test_any_seed_batch_and_number_of_epochs_reads_it(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher
) -> None:
    given = settings(pair, corpus, tmp_path / "out", teacher_cache=str(listed.path), tokens=30 * 128)
    run_heal(replace(given, seed=7, batch_size=3, mixture="lines=1"))
    assert (tmp_path / "out").is_dir()


def test_two_ranks_read_their_rows(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher
) -> None:
    one, two = (
        settings(pair, corpus, tmp_path / name, teacher_cache=str(listed.path), tokens=6 * 128)
        for name in ("one", "two")
    )
    run_heal(one)
    assert finish(start(two, ranks=2)) == [0, 0]
    found, wanted = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(wanted) == 6
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("mark", [0, 2])
def test_an_interrupted_run_continues_and_writes_the_same_bytes(
    pair: tuple[Path, Path],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listed: CachedTeacher,
    mark: int,
) -> None:
    given = caching(pair, corpus, tmp_path / "teacher")
    original, made = teacher_cache._entries, []

    def dies(teacher: Any, batch: Any, about: Any) -> Any:
        made.append(batch)
        if len(made) == 4:
            raise KeyboardInterrupt
        return original(teacher, batch, about)

    with monkeypatch.context() as patched:
        patched.setattr(teacher_cache, "_entries", dies)
        patched.setattr(teacher_cache, "SYNCED", mark or 1000)
        with pytest.raises(KeyboardInterrupt):
            run_cache_teacher(given, top_k=K)
    assert not (tmp_path / "teacher").exists()
    assert read_json(tmp_path / ".teacher.part" / teacher_cache.PROGRESS)["rows"] == 3 * given.batch_size, (
        "Ctrl-C marks all"
    )
    run_cache_teacher(given, top_k=K)
    begun: list[int] = []
    monkeypatch.setattr(teacher_cache, "_entries", lambda *_: begun.append(1))
    run_cache_teacher(given, top_k=K)  # finished: nothing is computed
    assert not begun
    assert all_bytes(tmp_path / "teacher") == all_bytes(listed.path)


@pytest.mark.parametrize("damage", ["cut", "no JSON", "rows that are not there", "killed before its name"])
def test_a_damaged_mark_begins_anew(
    pair: tuple[Path, Path],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listed: CachedTeacher,
    damage: str,
) -> None:
    """A run that was killed after all rows were written writes no rows again."""
    given, part = caching(pair, corpus, tmp_path / "teacher"), tmp_path / ".teacher.part"
    shutil.copytree(listed.path, part)
    about = read_json(part / teacher_cache.ABOUT)
    if damage != "killed before its name":
        asked = {key: value for key, value in about.items() if key not in {"rows", "bias"}}
        marked = json.dumps({"about": asked, "rows": about["rows"]})
        contents = {"cut": marked[:-9], "no JSON": "\x00" * 9, "rows that are not there": marked}
        (part / teacher_cache.PROGRESS).write_text(contents[damage])
        (part / teacher_cache.ABOUT).unlink()
        (part / teacher_cache.ROWS).write_bytes((part / teacher_cache.ROWS).read_bytes()[:-1])
    made: list[int] = []
    monkeypatch.setattr(teacher_cache, "_entries", noting(teacher_cache._entries, lambda *_: made.append(1)))
    run_cache_teacher(given, top_k=K)
    assert bool(made) == (damage != "killed before its name")
    assert all_bytes(tmp_path / "teacher") == all_bytes(listed.path)


def test_another_interrupted_cache_is_not_continued(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher
) -> None:
    part = tmp_path / ".teacher.part"
    part.mkdir()
    (part / teacher_cache.ROWS).write_bytes(b"x" * 100_000)
    (part / teacher_cache.PROGRESS).write_text(json.dumps({"about": {**listed.about, "k": 3}, "rows": 7}))
    run_cache_teacher(caching(pair, corpus, tmp_path / "teacher"), top_k=K)
    assert all_bytes(tmp_path / "teacher") == all_bytes(listed.path)


def test_a_full_disk_is_one_line(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(teacher_cache, "_mark", full)
    with pytest.raises(OutputError, match=r"the cache cannot be written \(No space left on device\); free space"):
        run_cache_teacher(caching(pair, corpus, tmp_path / "teacher"), top_k=K)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"sequence_length": 16},
            r"teacher: was made with another sequence length: 32, asked for is 16; ask for the same",
        ),
        ({"hold_out": 0.2}, r"was made with another hold out: 0.01, asked for is 0.2"),
        ({"temperature": 2.0}, r"was made with another temperature: 1.0, asked for is 2.0"),
    ],
)
def test_what_it_was_not_made_for_is_refused(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run_heal(settings(pair, corpus, tmp_path / "out", teacher_cache=str(listed.path), **changes))


def test_other_texts_and_another_teacher_are_refused(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher
) -> None:
    shorter = tmp_path / "lines.jsonl"
    shorter.write_text("".join(corpus.read_text().splitlines(keepends=True)[:-1]))
    given = settings(pair, shorter, tmp_path / "out", teacher_cache=str(listed.path))
    with pytest.raises(InputError, match="was made with another data; ask for the same"):
        run_heal(given)
    other = write_readable(tmp_path / "other", "orion", hidden_size=48)
    with pytest.raises(InputError, match="was made with another teacher; ask for the same"):
        run_heal(replace(given, data=(str(corpus),), teacher=str(other), out=str(tmp_path / "again")))
    with pytest.raises(InputError, match="was made with another k: 5, asked for is 6"):
        run_cache_teacher(caching(pair, corpus, listed.path), top_k=6)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": None},
        {"counts": "x"},
        {"counts": []},
        {"counts": [0]},
        {"counts": [10**9]},
        {"counts": [-1]},
        {"rows": 3},
        {"rows": 0},
        {"rows": "x"},
        {"k": 10**400},
        {"k": 0},
        {"temperature": "x"},
        {"format": 1},
    ],
)
def test_a_damaged_description_is_one_line(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher, change: dict[str, Any]
) -> None:
    damaged = Path(shutil.copytree(listed.path, tmp_path / "damaged"))
    about = {key: value for key, value in {**listed.about, **change}.items() if value is not None}
    (damaged / teacher_cache.ABOUT).write_text(json.dumps(about))
    given = settings(pair, corpus, tmp_path / "out", teacher_cache=str(damaged), tokens=128)
    with pytest.raises(
        InputError, match=r"damaged: (was changed after it was written .*|is of format 1, .*); remove it"
    ):
        run_heal(given)
    (damaged / teacher_cache.ABOUT).write_text("[" * 100_000)
    with pytest.raises(InputError, match="damaged: was changed after it was written"):
        run_heal(given)


@pytest.mark.parametrize("damage", [b"\0", b"\xff", b"\x01"])
def test_damaged_rows_are_detected_where_they_are_read(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher, damage: bytes
) -> None:
    damaged = Path(shutil.copytree(listed.path, tmp_path / "damaged"))
    size = (damaged / teacher_cache.ROWS).stat().st_size
    (damaged / teacher_cache.ROWS).write_bytes(damage * size)
    with pytest.raises(InputError, match=r"rows\.bin: was changed after it was written; remove .*damaged"):
        run_heal(settings(pair, corpus, tmp_path / "out", teacher_cache=str(damaged), tokens=128))


def test_each_bit_of_an_entry_counts(listed: CachedTeacher) -> None:
    one = teacher_cache.TeacherCache.open(listed.path).rows[0, :1].copy()
    assert (teacher_cache._sums(one) == one["sum"]).all()
    raw = one.view("u1")
    for at in range(one.itemsize - 4):
        raw[at] ^= 1
        assert (teacher_cache._sums(one) != one["sum"]).all(), at
        raw[at] ^= 1


@pytest.mark.parametrize("loss", ["reverse_kl", "jsd", "hidden"])
def test_losses_that_need_all_of_a_teacher_are_refused(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, loss: str
) -> None:
    with pytest.raises(
        RecipeError, match="teacher_cache: is 'there', it must be left out where reverse_kl, jsd or hidden"
    ):
        settings(pair, corpus, tmp_path / "out", teacher_cache="there", **{loss: 1.0})


def test_a_file_in_its_place_is_said_before_anything_is_run(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: is not a directory; name another place for the cache"):
        run_cache_teacher(caching(pair, corpus, tmp_path / "file"))
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_what_is_no_cache_is_said(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, listed: CachedTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="orion: is not a teacher cache; kept cache-teacher writes one"):
        run_heal(settings(pair, corpus, tmp_path / "out", teacher_cache=str(pair[0])))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / teacher_cache.ABOUT).write_text(json.dumps(dict(listed.about)))
    (damaged / teacher_cache.ROWS).write_bytes(b"short")
    with pytest.raises(InputError, match="damaged: was changed after it was written"):
        teacher_cache.TeacherCache.open(damaged)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="cache-teacher: runs as one process"):
        run_cache_teacher(caching(pair, corpus, tmp_path / "teacher"))
    with pytest.raises(InputError, match="top_k: is 0, it must be at least 1"):
        run_cache_teacher(caching(pair, corpus, tmp_path / "teacher"), top_k=0)

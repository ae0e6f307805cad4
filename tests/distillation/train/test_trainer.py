"""The loop: it heals, it goes on where it was killed, one rank or two, and it stops where something is wrong."""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

import kept
from kept.commands.heal import run_heal
from kept.commands.teacher_student import check_pair
from kept.distillation.train.divergence import Diverged
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.trainer import Trainer
from kept.errors import CheckpointError, InputError, OutputError, RecipeError
from kept.loaded import open_model
from support.heal_runs import folder_of, losses, noted, settings
from support.models import write_checkpoint
from support.stored import (
    all_bytes,
    change_json,
    read_json,
    tensors_of,
    write_json,
    write_sentencepiece,
    write_tokenizer,
)
from support.tokenizers_of import inside

if TYPE_CHECKING:
    from pathlib import Path


def test_norms_are_trained_and_the_rest_stays(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    done = run_heal(settings(pair, corpus, tmp_path / "out", tokens=60 * 128))
    losses = [one.losses["loss"] for one in done.history]
    assert min(losses) < 0.7 * losses[0]
    before, after = (kept.open_model(path).program for path in (pair[1], done.path))
    changed = {n for n, t in after.weights.items() if not torch.equal(t.read(), before.weights[n].read())}
    assert changed == set(done.trained.slots) == {name for name in before.weights if "norm." in name}
    record = read_json(done.path / "kept.json")
    assert record["healed"]["groups"]["student"]["held_out"][0]["losses"]["loss"] == pytest.approx(losses[0])
    assert kept.verify(pair[0], done.path, tokens=16).altered == ()


# ------------------------------------------------------------------------------------------------- the end of a run


def test_a_plateau_ends_a_run_and_the_best_is_written(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    """A rate that ruins what it trains: the best measurement is the first, and its weights are the student's."""
    given = settings(
        pair, corpus, tmp_path / "out", learning_rate=3.0, lr_schedule="constant", eval_every=2, patience=2
    )
    done = run_heal(given)
    found = [one.losses["loss"] for one in done.history]
    best = min(found)
    assert max(found[1:]) > best
    assert len(found) - 1 == found.index(best) + 2 < given.steps // 2, "two measurements after the best, no more"
    again = run_heal(settings(pair, corpus, tmp_path / "again", student=str(done.path), tokens=1, eval_every=1))
    assert again.history[0].losses["loss"] == pytest.approx(best, rel=1e-6)


def test_the_best_is_not_the_first_or_the_last(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is well until step 8 and spoiled after it."""
    original = Trainer._update

    def update(self: Trainer) -> Any:
        found = original(self)
        if self.step >= 8:
            with torch.no_grad():
                for parameter in (p for p in self.task.student.parameters() if p.requires_grad):  # type: ignore[attr-defined]
                    parameter.mul_(1.5)
        return found

    monkeypatch.setattr(Trainer, "_update", update)
    done = run_heal(settings(pair, corpus, tmp_path / "out"))
    assert min(done.history, key=lambda one: one.losses["loss"]).step == 8
    monkeypatch.undo()
    again = run_heal(settings(pair, corpus, tmp_path / "again", student=str(done.path), tokens=1))
    assert again.history[0].losses["loss"] == pytest.approx(min(one.losses["loss"] for one in done.history), rel=1e-6)


def test_a_run_that_ended_leaves_metrics_and_no_checkpoints(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    done = run_heal(settings(pair, corpus, tmp_path / "out"))
    assert done.run == folder_of(tmp_path / "out")
    assert sorted(file.name for file in done.run.iterdir()) == ["lock", "metrics.jsonl", "settings.json", "tensorboard"]


def test_a_run_begins_with_what_it_takes(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    done = run_heal(settings(pair, corpus, tmp_path / "out", hold_out=7), watch=seen.append)
    assert [line["kind"] for line in seen if line["kind"] != "measuring"][:2] == ["run", "held-out"]
    assert seen[-1]["kind"] == "end"
    about = seen[0]
    assert (about["parameters"], about["of"]) == (done.trained.parameters, done.trained.of)
    assert about["optimiser_bytes"] == 16 * done.trained.parameters
    source = about["sources"]["lines"]
    assert (source["documents"], source["held_out_documents"]) == (393, 7)
    assert source["tokens"] > 393 * 30 > source["held_out_tokens"] > 7 * 30


# ------------------------------------------------------------------------------------------------------- tensorboard


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulators.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_points_are_the_lines_and_none_is_double(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    original = Trainer._update

    def dies(self: Trainer) -> Any:
        if self.step == 8:
            self.checkpoints.settle()
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Trainer, "_update", dies)
    with pytest.raises(KeyboardInterrupt):
        run_heal(given)
    monkeypatch.undo()
    done = run_heal(given)
    found = points(done.run / "tensorboard")
    assert found["step/student/loss"] == [
        (i + 1, pytest.approx(loss)) for i, loss in enumerate(losses(tmp_path / "out"))
    ]  # type: ignore[comparison-overlap]
    held = [(line["step"], pytest.approx(line["kl"])) for line in noted(tmp_path / "out", "held-out")]
    assert found["held-out/student/kl"] == held  # type: ignore[comparison-overlap]
    assert [step for step, _ in held] == [0, 4, 8, 12]


def test_without_tensorboard_there_are_lines_and_a_word(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kept.distillation.train.metrics.find_spec", lambda _: None)
    done = run_heal(settings(pair, corpus, tmp_path / "out"))
    assert not (done.run / "tensorboard").exists()
    assert noted(tmp_path / "out", "run")[0]["tensorboard"] is False
    assert len(losses(tmp_path / "out")) == 12


def test_another_rank_notes_nothing(tmp_path: Path) -> None:
    quiet = Metrics(tmp_path, quiet=True)
    quiet.begin(None)
    quiet.note({"kind": "step", "step": 1, "loss": 1.0})
    assert not [*tmp_path.iterdir()]


# ----------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 1e9, "max_grad_norm": 1e9},
        {"learning_rate": 1e9, "max_grad_norm": 1e9, "gradient_accumulation": 2},
    ],
)
def test_a_spike_stops_the_run_with_its_documents(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    given = settings(pair, corpus, tmp_path / "out", train="all", tokens=100 * 128, save_every=1, **changes)
    with pytest.raises(Diverged) as caught:
        run_heal(given)
    place = max(folder_of(tmp_path / "out").glob("step-*"))
    step = int(place.name[5:])
    message = str(caught.value)
    assert message.startswith(f"step {step + 1}: the loss of the student is ")
    assert "lines.jsonl:" in message
    assert f"the last good checkpoint is {place}; lower --learning-rate" in message
    assert "median" not in message.split(";", maxsplit=1)[0], "there were too few steps to know"
    assert not (tmp_path / "out").exists()


def test_a_nan_gradient_is_not_applied(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kept.distillation.train import task

    norm = torch.nn.utils.clip_grad_norm_
    steps = iter(range(99))
    monkeypatch.setattr(task, "clip_grad_norm_", lambda *given: norm(*given) * (torch.nan if next(steps) == 6 else 1.0))
    with pytest.raises(
        Diverged, match=r"step 7: the loss of the student is [\d.]+, its gradient norm nan; .* is .*step-00000005;"
    ):
        run_heal(settings(pair, corpus, tmp_path / "out"))


def test_a_loss_far_above_the_ones_before_is_a_spike(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer._check_divergence

    def check(self: Trainer, progress: Any, loss: float, norm: float, batches: Any) -> None:
        original(self, progress, 100 * loss if self.step == 54 else loss, norm, batches)

    monkeypatch.setattr(Trainer, "_check_divergence", check)
    with pytest.raises(
        Diverged, match=r"step 55: the loss of the student is [\d.]+ \(median before: [\d.]+\), its gradient"
    ):
        run_heal(settings(pair, corpus, tmp_path / "out", tokens=60 * 128))


def test_near_zero_a_loss_may_rise(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times next to nothing, or less than nothing, is noise; half a nat is not."""
    original, steps = Trainer._check_divergence, iter(range(99))

    def check(self: Trainer, progress: Any, _: float, norm: float, batches: Any) -> None:
        noise = [1e-4, -1e-5][next(steps) % 2]
        original(self, progress, {51: 0.02, 54: 0.5}.get(self.step, noise), norm, batches)

    monkeypatch.setattr(Trainer, "_check_divergence", check)
    with pytest.raises(Diverged, match=r"step 55: the loss of the student is 0\.5 \(median before"):
        run_heal(settings(pair, corpus, tmp_path / "out", tokens=60 * 128))


@pytest.mark.parametrize("changes", [{}, {"save_every": 1, "eval_every": 1}])
def test_nan_held_out_losses_end_a_run(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    given = settings(
        pair,
        corpus,
        tmp_path / "out",
        learning_rate=1e9,
        max_grad_norm=1e9,
        train="all",
        tokens=128,
        lr_schedule="constant",
    )
    ruined = replace(given, warmup=0.0, weight_decay=1e9, **changes)  # type: ignore[arg-type] # numbers
    with pytest.raises(
        Diverged, match=r"step 1: the held-out loss of the student is .*; the last good checkpoint is none; lower"
    ):
        run_heal(ruined)
    assert not (tmp_path / "out").exists()


def test_self_with_few_tokens_samples_a_text_to_hold_out(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    done = run_heal(settings(pair, corpus, tmp_path / "out", data=("self",), tokens=1, batch_size=1))
    (source,) = done.record["healed"]["sources"].values()
    assert (source["documents"], source["held_out_documents"]) == (1, 1)


def test_a_step_without_a_target_is_a_step(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    """Rows of one token: where it is its document's last, nothing is learned from it."""
    short = tmp_path / "short.jsonl"
    short.write_text("".join(f'{{"text": "{word}"}}\n' for word in ("fox old", "an once", "was there", "time a")))
    given = settings(pair, short, tmp_path / "out", hold_out=1, sequence_length=1, batch_size=1, tokens=40)
    assert run_heal(given).history[-1].step == 40
    assert min(losses(tmp_path / "out")) == 0


def test_without_a_teacher_agreement_is_null(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    run_heal(settings(pair, corpus, tmp_path / "out", teacher=None, kl=0.0, ce=1.0))
    assert {line["agreement"] for line in noted(tmp_path / "out", "held-out")} == {None}
    for file in (folder_of(tmp_path / "out") / "metrics.jsonl", tmp_path / "out" / "kept.json"):
        assert "NaN" not in file.read_text()


def interrupted(given: Any, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Stop a run before a step; what is being written is finished."""
    original = Trainer._update

    def stops(self: Trainer) -> Any:
        if self.step == step:
            self.checkpoints.settle()
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_update", stops)
        with pytest.raises(KeyboardInterrupt):
            run_heal(given)


def test_other_settings_do_not_go_on(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    interrupted(given, monkeypatch, 6)
    with pytest.raises(InputError, match=r"is a run with other settings \(learning_rate\)"):
        run_heal(replace(given, learning_rate=1e-4))


def test_other_texts_do_not_go_on(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_bytes(corpus.read_bytes())
    given = settings(pair, mine, tmp_path / "out")
    interrupted(given, monkeypatch, 6)
    mine.write_bytes(corpus.read_bytes().replace(b"fox", b"old"))
    with pytest.raises(InputError, match=r"is a run that read other contents of data; remove the directory, or choose"):
        run_heal(given)


@pytest.mark.parametrize(("which", "name"), [(0, "teacher"), (1, "student")])
def test_a_model_that_was_replaced_is_another_run(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, name: str
) -> None:
    mine = shutil.copytree(pair[which], tmp_path / "mine")
    given = settings(pair, corpus, tmp_path / "out", **{name: str(mine)})
    interrupted(given, monkeypatch, 6)
    (file,) = mine.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"is a run that read other contents of {name}; remove the directory"):
        run_heal(given)
    content[-2] ^= 1
    file.write_bytes(content)
    assert len(run_heal(given).record["healed"]["read"][name]) == 64


def test_two_runs_at_once_are_one_too_many(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "out")
    folder.mkdir()
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=r"out\.kept-healing: another run is using it; wait for it"):
            run_heal(settings(pair, corpus, tmp_path / "out"))
        assert [file.name for file in folder.iterdir()] == ["lock"]
    assert run_heal(settings(pair, corpus, tmp_path / "out")).best.step > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is missing, so the settings of its checkpoints are unknown"), ("{", "cannot be read as JSON")],
)
def test_a_run_whose_settings_are_lost_says_what_to_do(
    pair: tuple[Path, Path],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    said: str,
) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    interrupted(given, monkeypatch, 6)
    file = folder_of(tmp_path / "out") / "settings.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(
        CheckpointError, match=rf"settings\.json: {said}.*; remove the directory, or choose another --out"
    ):
        run_heal(given)


def test_a_run_that_never_began_does_not_block_others(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(pair, corpus, tmp_path / "out")
    interrupted(given, monkeypatch, 2)
    assert len(losses(tmp_path / "out")) == 2
    run_heal(replace(given, learning_rate=1e-4))
    assert len(losses(tmp_path / "out")) == 12


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"sequence_length": 1000},
            InputError,
            "sequence_length: is 1000, .* has 128 positions; make sequences shorter",
        ),
        ({"hold_out": 0.0}, RecipeError, "hold_out: is 0.0, it must be above 0"),
        (
            {"train": "new"},
            InputError,
            "'new' is what kept expand or a conversion made, and the student's kept.json lists nothing",
        ),
        ({"teacher": "/nowhere/teacher"}, CheckpointError, "/nowhere/teacher: is not a directory"),
        ({"student": "/nowhere/student"}, CheckpointError, "/nowhere/student: is not a directory"),
        ({"learning_rate": -1.0}, RecipeError, "learning_rate: is -1.0, it must be above 0"),
        ({"teacher": None}, RecipeError, "teacher: is missing: the loss compares with a teacher"),
        ({"train": "nrms"}, InputError, "names no weight"),
        ({"train": "lora", "lora_rank": 10**9}, InputError, "lora_rank: is 1000000000, no matrix has a rank above"),
        ({"data": ("nowhere",)}, InputError, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run_heal(settings(pair, corpus, tmp_path / "out", **changes))
    assert not [*tmp_path.iterdir()], "nothing was begun"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "empty: holds no file; name one of .txt"),
        ("", "holds no text; name files that do"),
        ('{"text": ""}\n', "holds no text; name files that do"),
        ('{"text": "one document"}\n', "every document is held out; give more documents"),
        ('{"words": "none"}\n', "lines.jsonl: line 1 has no field 'text'"),
    ],
)
def test_data_without_trained_tokens_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, content: str | None, said: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    if content is not None:
        (empty / "lines.jsonl").write_text(content)
    with pytest.raises(InputError, match=said):
        run_heal(settings(pair, empty, tmp_path / "out"))
    assert [*tmp_path.iterdir()] == [empty], "nothing was begun"


@pytest.mark.parametrize(("which", "called"), [(0, "teacher"), (1, "student")])
def test_an_output_inside_what_it_is_made_of_is_refused(
    pair: tuple[Path, Path], corpus: Path, which: int, called: str
) -> None:
    before = sorted(pair[which].iterdir())
    with pytest.raises(OutputError, match=f"out: lies inside the {called}; choose a place outside of it"):
        run_heal(settings(pair, corpus, pair[which] / "out"))
    assert sorted(pair[which].iterdir()) == before


def test_two_sources_of_one_name_are_refused(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / corpus.name
    other.parent.mkdir()
    other.write_text("".join(corpus.read_text().splitlines(keepends=True)[:9]))
    for data in ((str(corpus), str(other)), (f"x={corpus}", f"x={other}")):
        with pytest.raises(InputError, match=r"^data: .* are both named '(lines|x)'; name them: a=.*, b=.*"):
            run_heal(settings(pair, corpus, tmp_path / "out", data=data))
    named = settings(pair, corpus, tmp_path / "out", data=(str(corpus), f"few={other}"))
    assert {*run_heal(named).record["healed"]["sources"]} == {"lines", "few"}


def test_an_output_that_exists_is_unchanged(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="out: exists already; choose another output, or --force"):
        run_heal(settings(pair, corpus, tmp_path / "out"))
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]


# -------------------------------------------------------------------------------------------------------- tokenizers


def copy_of(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    (folder / "tokenizer.json").unlink()
    return folder


def test_the_teacher_reads_the_same_words(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    other = copy_of(pair[0], tmp_path / "other")
    check_pair(open_model(pair[1]), open_model(other), 32)  # it has none: ids alone
    write_tokenizer(other)
    check_pair(open_model(pair[1]), open_model(other), 32)
    vocabulary = read_json(other / "tokenizer.json")
    model = vocabulary["model"]["vocab"]
    model["A"], model["B"] = model["B"], model["A"]
    write_json(other / "tokenizer.json", vocabulary)
    with pytest.raises(InputError, match=r"another tokenizer than its teacher .*other: id \d+ is 'A' and 'B'; name"):
        run_heal(settings(pair, corpus, tmp_path / "out", teacher=str(other)))


def test_sentencepiece_alone_and_what_is_made_of_it_are_the_same(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    one, other = (copy_of(pair[0], tmp_path / name) for name in ("one", "other"))
    write_sentencepiece(one)
    made = inside(one)
    assert made is not None
    made.save(str(other / "tokenizer.json"))
    check_pair(open_model(other), open_model(one), 32)
    check_pair(open_model(one), open_model(one), 32)
    with pytest.raises(InputError, match=r"has another tokenizer than its teacher .*one: id \d+ is"):
        check_pair(open_model(pair[1]), open_model(one), 32)


def test_the_same_words_cut_otherwise_are_another_tokenizer(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_tokenizer(copy_of(pair[0], tmp_path / "other"))
    table = read_json(other / "tokenizer.json")
    table["pre_tokenizer"]["add_prefix_space"] = True
    write_json(other / "tokenizer.json", table)
    with pytest.raises(InputError, match="they cut the same text into other ids"):
        check_pair(open_model(pair[1]), open_model(other), 32)


def test_another_vocabulary_is_no_teacher(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "llama", vocab_size=50)
    with pytest.raises(InputError, match=r"tokens, its teacher .*other has 50"):
        run_heal(settings(pair, corpus, tmp_path / "out", teacher=str(other)))


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_a_padded_vocabulary_is_the_same(pair: tuple[Path, Path], corpus: Path, tmp_path: Path, which: str) -> None:
    """With one tokenizer and more rows in one of the two models; the rows of padding are large and change nothing."""
    wide = padded(pair[0] if which == "teacher" else pair[1], tmp_path / "wide")
    found = run_heal(settings(pair, corpus, tmp_path / "found", tokens=4 * 128, **{which: str(wide)}))
    wanted = run_heal(settings(pair, corpus, tmp_path / "wanted", tokens=4 * 128))
    assert [one.losses for one in found.history] == [pytest.approx(one.losses, rel=1e-4) for one in wanted.history]


def test_more_tokens_are_no_padding(pair: tuple[Path, Path], tmp_path: Path) -> None:
    wide = padded(pair[0], tmp_path / "wide")
    has = open_model(wide).program.spec.vocabulary
    table = read_json(wide / "tokenizer.json")
    table["model"]["vocab"]["a new token"] = has - 1
    write_json(wide / "tokenizer.json", table)
    with pytest.raises(InputError, match=rf"tokens, its teacher .*wide has {has}; name a teacher with the same"):
        check_pair(open_model(pair[1]), open_model(wide), 32)


def padded(source: Path, folder: Path, rows: int = 8) -> Path:
    """Return a copy of a model whose embedding and head have more rows than it has tokens."""
    shutil.copytree(source, folder)
    had = read_json(folder / "config.json")["vocab_size"]
    change_json(folder / "config.json", vocab_size=had + rows)
    tensors = tensors_of(folder)
    for name, tensor in tensors.items():
        if len(tensor) == had:
            tensors[name] = torch.cat((tensor, torch.full((rows, *tensor.shape[1:]), 2.0, dtype=tensor.dtype)))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_two_runs_write_the_same_bytes(pair: tuple[Path, Path], corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_heal(settings(pair, corpus, tmp_path / name))
    assert all_bytes(tmp_path / "one") == all_bytes(tmp_path / "two")


@pytest.mark.parametrize("error", ["mse", "cosine"])
def test_streams_are_matched_too(pair: tuple[Path, Path], corpus: Path, tmp_path: Path, error: str) -> None:
    streams = {
        "kl": 0.0,
        "hidden": 1.0,
        "hidden_error": error,
        "train": "all",
        "learning_rate": 1e-3,
        "tokens": 30 * 128,
    }
    found = [one.losses["hidden"] for one in run_heal(settings(pair, corpus, tmp_path / "out", **streams)).history]
    assert min(found) < 0.7 * found[0]

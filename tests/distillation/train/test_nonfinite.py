"""Logits that are NaN or Inf are reported with the model and the first layer affected."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kept.checkpoint.byte_stream import write_tensors
from kept.commands.cache_teacher import run_cache_teacher
from kept.commands.heal import run_heal
from kept.distillation.train.divergence import Diverged
from kept.errors import InputError, KeptError, Overflow
from kept.ir.tensors import InMemory, wider
from support.heal_runs import settings
from support.stored import write_readable

if TYPE_CHECKING:
    from pathlib import Path


def ruined(directory: Path, weight: str, value: float) -> Path:
    """Replace the first element of a weight; return the directory."""
    tensors = load_file(directory / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith(weight))
    tensors[name].view(-1)[0] = value
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return ruined(write_readable(tmp_path / "teacher", "orion"), "layers.1.mlp.down_proj.weight", math.nan)


def said(given: Any, do: Any = run_heal) -> str:
    with pytest.raises(KeptError) as found:
        do(given)
    return str(found.value)


@pytest.mark.parametrize(
    ("dtype", "way_out"), [("float32", "use another model"), ("bfloat16", "--dtype float32 may help")]
)
def test_a_teacher_is_named_with_the_layer(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, teacher: Path, dtype: str, way_out: str
) -> None:
    """The advice names neither the dtype in use nor a learning rate."""
    for changes in ({}, {"hidden": 1.0}):
        given = settings((teacher, pair[1]), corpus, tmp_path / "out", dtype=dtype, **changes)
        assert said(given) == (
            f"the logits of the teacher {teacher} are not finite in {dtype}, from layer 1 on; {way_out} "
            "(kept check names weights that are not finite)"
        )


def test_so_it_is_where_it_only_shows_later(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's final norm becomes Inf after three steps, in training text."""
    from kept.distillation.train.trainer import Trainer

    update = Trainer._update

    def later(self: Trainer) -> Any:
        if self.step == 3:
            self.task.teacher.model.final_norm.gain.data.fill_(math.inf)  # type: ignore[attr-defined]
        return update(self)

    monkeypatch.setattr(Trainer, "_update", later)
    with pytest.raises(Diverged, match=r"the teacher .* are not finite in float32, from the head on"):
        run_heal(settings(pair, corpus, tmp_path / "out"))


def test_a_student_that_is_not_finite_before_training_is_named(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    student = ruined(write_readable(tmp_path / "student", "orion"), "embed_tokens.weight", math.inf)
    tensors = load_file(student / "model.safetensors")
    tensors["model.embed_tokens.weight"].fill_(math.inf)
    save_file(tensors, student / "model.safetensors", metadata={"format": "pt"})
    line = said(settings((pair[0], student), corpus, tmp_path / "out"))
    assert line.startswith(f"the logits of the student {student} are not finite in float32, from the embedding on")


def test_no_cache_is_made_of_it(pair: tuple[Path, Path], corpus: Path, tmp_path: Path, teacher: Path) -> None:
    given = settings((teacher, pair[1]), corpus, tmp_path / "cache")
    assert said(given, run_cache_teacher).startswith(
        f"{teacher}: the logits of the teacher are not finite in float32, from layer 1 on"
    )
    assert not [*tmp_path.glob(".cache.part")], "the same command would end in the same way"


def test_nor_are_texts_sampled(pair: tuple[Path, Path], corpus: Path, tmp_path: Path, teacher: Path) -> None:
    given = settings((teacher, pair[1]), corpus, tmp_path / "out", data=("self",))
    with pytest.raises(Overflow, match=f"{teacher}: the model's logits are not finite, so no token can be sampled"):
        run_heal(given)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_way_out_of_an_overflow_is_another_dtype(dtype: str) -> None:
    assert dtype not in wider(dtype).replace("bfloat16" if dtype == "float16" else "", "").split()
    named = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    stored = next(short for short, name in named.items() if name == dtype)
    values = torch.full((2, 2), math.inf, dtype=torch.float64)
    with pytest.raises(Overflow) as found:
        write_tensors([("w", InMemory((2, 2), stored, values))], None, lambda _: None)  # type: ignore[arg-type] # nothing is written
    computed = "float64" if dtype == "float64" else "float32"
    assert str(found.value) == f"w: 4 values are not finite when they are computed in {computed}; {wider(computed)}"


def test_a_cache_of_an_older_version_with_such_rows_is_refused(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    import numpy as np

    from kept.distillation.teacher_cache import TeacherCache, _sums

    made = run_cache_teacher(settings(pair, corpus, tmp_path / "cache"))
    cached = TeacherCache.open(made.path)
    rows = np.memmap(made.path / "rows.bin", dtype=cached.rows.dtype, mode="r+", shape=cached.rows.shape)
    rows["log_probs"] = math.nan
    for row in rows:
        row["sum"] = _sums(row)
    rows.flush()
    given = settings(pair, corpus, tmp_path / "out", teacher_cache=str(made.path))
    with pytest.raises(InputError, match=r"rows\.bin: has NaN: the teacher's logits were not finite; remove"):
        run_heal(given)

"""Devices and dtypes are read in one place, by every name that users know."""

from __future__ import annotations

import pytest
import torch

from kept.device import torch_device
from kept.distillation.settings import HealSettings
from kept.distillation.train.process_group import local_device
from kept.errors import InputError, RecipeError
from kept.evaluation.settings import EvalSettings
from kept.recipe import recipe_from

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")


@pytest.mark.parametrize(
    ("word", "name"),
    [("bf16", "bfloat16"), ("fp16", "float16"), ("f16", "float16"), ("fp32", "float32"), ("float64", "float64")],
)
def test_a_dtype_has_short_names(word: str, name: str) -> None:
    assert recipe_from({"source": "a", "out": "b", "dtype": word}).dtype == name
    assert EvalSettings(dtype=word).dtype == name
    cast = {"source": "a", "out": "b", "passes": [{"name": "cast", "dtype": word}]}
    assert (
        recipe_from(cast).to_dict()["passes"]
        == recipe_from({**cast, "passes": [{"name": "cast", "dtype": name}]}).to_dict()["passes"]
    )


def test_training_has_no_half_precision() -> None:
    assert HealSettings("a", "b", teacher="c", dtype="bf16").dtype == "bfloat16"
    with pytest.raises(RecipeError, match="dtype: is 'fp16'; it must be one of float32, bfloat16"):
        HealSettings("a", "b", teacher="c", dtype="fp16")


@WITHOUT_GPU
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_missing_gpu_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match=f"^device: is {name}, but torch finds no GPU; give auto or cpu$"):
        torch_device(name)


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [torch_device(name).type for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda", "cpu"]
    with pytest.raises(InputError, match="cuda:2, but torch finds 2 GPUs, numbered from 0"):
        torch_device("cuda:2")


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("auto") == local_device("cuda") == torch.device("cuda:1")
    with pytest.raises(InputError, match="torchrun gives each process a GPU of its own"):
        local_device("cuda:1")


@WITHOUT_GPU
def test_auto_is_the_processor_without_a_gpu() -> None:
    assert torch_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "CPU", ""])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="it must be auto, cpu, cuda or cuda:N"):
        torch_device(name)
    with pytest.raises(RecipeError, match="it must be auto, cpu, cuda or cuda:N"):
        EvalSettings(device=name)

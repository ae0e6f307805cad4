"""Machines by name, from a file, and this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kept.distillation.cluster import DEVICES, cluster, here
from kept.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path


def test_by_name() -> None:
    assert cluster("h100").device == DEVICES["h100"]
    assert cluster("h100").ranks == 1
    found = cluster("16xa100", price=1.5)
    assert (found.name, found.ranks, found.price) == ("16xa100", 16, 1.5)


def test_links_between_nodes_are_slower() -> None:
    assert cluster("8xh100").link == 450e9
    assert cluster("16xh100").link == 400e9


def test_a_file_s_figures_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('device = "h100"\nranks = 4\nmemory_gb = 94\nmfu = 0.5\n')
    found = cluster(str(file))
    assert (found.name, found.memory, found.device.bfloat16) == ("4xh100", 94e9, 989e12)
    assert found.rate("bfloat16") == 0.5 * 989e12
    assert cluster(str(file), price=3.0).price == 3.0


def test_a_file_may_describe_all(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "memory_gb = 8\nbfloat16_tflops = 1\nfloat32_tflops = 0.5\nmemory_bandwidth_gb_s = 50\nlink_gb_s = 1\n"
    )
    assert cluster(str(file)).rate("float32") == 0.4 * 0.5e12


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("h10", "device: 'h10' is not a known device; did you mean h100?"),
        ("0xh100", "ranks: is 0, it must be above 0 and at most 1000000"),
        ("1000001xh100", "ranks: is 1000001, it must be above 0 and at most 1000000"),
        ("", "device: '' is not a known device"),
    ],
)
def test_invalid_names_are_refused(said: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as raised:
        cluster(said)
    assert str(raised.value).startswith(complaint)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('device = "h100"\nmfu = 5', ":2: mfu: is 5, it must be above 0 and at most 1"),
        ('device = "h100"\nmemory = 80', ":2: memory: is not a key"),
        ('device = "h100"\nranks = 1.5', ":2: ranks: is 1.5, it must be a whole number"),
        ('device = "h100"\nmfu = -1.0', ":2: mfu: is -1.0, it must be above 0 and at most 1"),
        ('device = "h100"\nreached = 0.5', ":2: reached: is now mfu"),
        ("ranks = 2", ": memory_gb: is missing"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(RecipeError) as raised:
        cluster(str(file))
    assert str(raised.value).startswith(f"{file}{complaint}")


def test_this_machine_is_measured_and_shared() -> None:
    found = here(2)
    assert found.ranks == 2
    assert found.memory == found.device.memory / 2
    assert 1e8 < found.rate("float32") < 1e15

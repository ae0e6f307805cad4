"""The environment of the command."""

from __future__ import annotations

import os

import pytest

from kept.cli import start


@pytest.mark.parametrize(
    ("given", "spins"), [({}, start.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_openmp_s_threads_sleep_soon_unless_the_user_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    rest = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    monkeypatch.setattr(os, "environ", {**rest, **given})
    monkeypatch.setattr(start, "_run", lambda: 0)
    with pytest.raises(SystemExit):
        start.main()
    assert os.environ.get("GOMP_SPINCOUNT") == spins

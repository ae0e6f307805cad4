"""Short runs of healing, on one rank and on several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kept.distillation.loop import Loop
from kept.distillation.settings import Settings
from kept.healing import heal

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 12


def settings(pair: tuple[Path, Path], corpus: Path, out: Path, **changes: Any) -> Settings:
    sizes = {"batch": 4, "length": 32, "tokens": STEPS * 4 * 32, "measure_every": 4, "save_every": 5, "rate": 1e-2}
    given = {"student": str(pair[1]), "teacher": str(pair[0]), "data": (str(corpus),), "out": str(out), **sizes}
    return Settings(**{**given, **changes})


class Killed(Exception):  # noqa: N818 - it is what happens
    """The power goes."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, given: Settings) -> None:
    original = Loop._update

    def dies(self: Loop) -> dict[str, float]:
        if self.step == step:
            self.states.settle()
            raise Killed
        return original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_update", dies)
        with pytest.raises(Killed):
            heal(given)


def curve(folder: Path) -> dict[int, float]:
    """The last loss that was noted for each step."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "step"}


RUN = """
import json, sys
import pytest

from kept.distillation.loop import Loop
from kept.distillation.settings import Settings
from kept.healing import heal
from kept.healing import heal
given = json.loads(sys.argv[1])
heal(Settings(**{**given, "data": tuple(given["data"])}))
"""


def on_ranks(count: int, given: Settings, folder: Path) -> None:
    script = folder / "run.py"
    script.write_text(RUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", str(script)]
    clean = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, json.dumps(given.to_dict())], env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]

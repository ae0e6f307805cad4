"""Training checkpoints from untrusted sources never run code."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict_loader import load

from kept.commands.heal import run_heal
from kept.errors import CheckpointError
from support.heal_runs import finish, folder_of, settings, start
from support.stored import change_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.distillation.settings import HealSettings


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@pytest.fixture(scope="module")
def broken(pair: tuple[Path, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> HealSettings:
    """The settings of a run that was killed after its first checkpoint."""
    given = settings(pair, corpus, tmp_path_factory.mktemp("broken") / "out")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        finish(start(given, "named 10"))
    return given


@pytest.fixture
def place(pair: tuple[Path, Path], corpus: Path, tmp_path: Path, broken: HealSettings) -> Path:
    """The checkpoint in a copy of that run."""
    folder = shutil.copytree(folder_of(Path(broken.out)), folder_of(tmp_path / "out"))
    asked = json.loads((folder / "settings.json").read_text())
    change_json(folder / "settings.json", settings={**asked["settings"], "out": str(tmp_path / "out")})
    return folder / "step-00000005"


def signed(place: Path) -> None:
    """Recompute the checkpoint's sums, as an attacker would."""
    sums = {file.name: sha256(file.read_bytes()).hexdigest() for file in place.iterdir() if file.name != "sums.json"}
    (place / "sums.json").write_text(json.dumps(sums))


def said(pair: tuple[Path, Path], corpus: Path, place: Path) -> str:
    with pytest.raises(CheckpointError) as found:
        run_heal(settings(pair, corpus, place.parent.with_name("out")))
    return str(found.value)


def test_a_checkpoint_of_an_earlier_version_is_refused_unread(
    pair: tuple[Path, Path], corpus: Path, place: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    (place / ".metadata").write_bytes(pickle.dumps(Bomb(marker)))
    (place / "__0_0.distcp").write_bytes(pickle.dumps(Bomb(marker)))
    signed(place)
    assert said(pair, corpus, place) == (
        f"{place}: is a checkpoint of an earlier version, a pickle that can run code when it is loaded; "
        f"remove {place.parent} to start over, or finish the run with that version"
    )
    assert not marker.exists()
    with pytest.raises(BaseException, match=r"has no attribute|must be|object"):
        load({}, checkpoint_id=place)
    assert marker.exists(), "the bomb works where torch reads it"


@pytest.mark.parametrize("name", ["rank-00000-of-00001.safetensors", "state.json", "sums.json"])
@pytest.mark.parametrize("saved", ["a pickle", "torch.save"])
def test_a_pickle_in_place_of_a_file_runs_nothing(
    pair: tuple[Path, Path], corpus: Path, place: Path, tmp_path: Path, name: str, saved: str
) -> None:
    marker = tmp_path / "marker"
    if saved == "a pickle":
        (place / name).write_bytes(pickle.dumps(Bomb(marker)))
    else:
        torch.save(Bomb(marker), place / name)
    if name != "sums.json":
        signed(place)
    assert name in said(pair, corpus, place)
    assert not marker.exists()
    content = (place / name).read_bytes()
    if saved == "a pickle":
        pickle.loads(content).close()  # noqa: S301 - negative control: the bomb works
    else:
        torch.load(BytesIO(content), weights_only=False).close()
    assert marker.exists(), "the bomb works where it is unpickled"


def changed(**values: object) -> Callable[[Path], None]:
    return lambda place: change_json(place / "state.json", **values)


def without(prefix: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        file = place / "rank-00000-of-00001.safetensors"
        save_file({name: t for name, t in load_file(file).items() if not name.startswith(prefix)}, file)

    return change


def longer(place: Path) -> None:
    file = place / "rank-00000-of-00001.safetensors"
    save_file({name: torch.cat([t, t]) for name, t in load_file(file).items()}, file)


WITHOUT_LOSSES = {"step": 1, "tokens": 1, "losses": [], "agreement": 1}

WITHOUT_OBJECTIVE = {"step": 1, "tokens": 1, "losses": {"kl": 1.0}, "agreement": None}

FORGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "another format": (changed(format=1), "its format is 1, this version reads 3"),
    "no format": (changed(format=None), "format: is null, it should be a valid integer"),
    "as many ranks as atoms": (changed(ranks=10**80), "missing|cannot be read"),
    "no ranks": (changed(ranks=0), "weights/"),
    "no step": (changed(step="5"), r'step: is "5", it should be a valid integer'),
    "no groups": (changed(groups={}), "student"),
    "no history": (
        changed(groups={"student": {"history": [{"step": 1}], "recent": []}}),
        "history.0.tokens: is missing",
    ),
    "no losses": (
        changed(groups={"student": {"history": [WITHOUT_LOSSES], "recent": []}}),
        r"losses: is \[\], it should be",
    ),
    "no objective": (
        changed(groups={"student": {"history": [WITHOUT_OBJECTIVE], "recent": []}}),
        "losses: has no loss",
    ),
    "no randomness": (changed(random={"cpu": "00"}), "RNG state"),
    "no weights": (without("weights/"), "weights/"),
    "no moments": (without("exp_avg/"), "exp_avg/"),
    "no best": (without("best/"), "best"),
    "other shapes": (longer, "the model's has"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_checkpoint_is_one_line(pair: tuple[Path, Path], corpus: Path, place: Path, kind: str) -> None:
    """Valid sums do not replace the check of the contents."""
    change, words = FORGED[kind]
    change(place)
    signed(place)
    line = said(pair, corpus, place)
    assert line.startswith(str(place))
    assert re.search(words, line), line

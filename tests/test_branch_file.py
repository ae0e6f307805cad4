"""Replaced branches in a file: read, refused, converted with a recipe, and verified again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

import kept
from kept.branch_file import read_branches
from kept.commands.verify import claimed
from kept.errors import InputError
from kept.ir.promise import Promise
from kept.ir.tensors import InMemory
from kept.loaded import open_model
from kept.output.input_files import fingerprint
from kept.output.record import read_record
from kept.passes.replace_branches import BranchChoice, ReplaceBranches
from kept.recipe import Recipe
from support.models import write_checkpoint
from support.specs import mlp_of

if TYPE_CHECKING:
    from pathlib import Path

    from kept.loaded import LoadedModel


@pytest.fixture
def source(tmp_path: Path) -> LoadedModel:
    return open_model(write_checkpoint(tmp_path / "source", "llama"))


def padded(source: LoadedModel, layer: int = 1) -> BranchChoice:
    """The MLP of a layer with four more channels that add nothing."""
    mlp = mlp_of(source.program.spec.layers[layer])
    reused = {}
    for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
        old = source.program.weights[f"layers.{layer}.mlp.{name}.weight"]
        shape = [*old.shape]
        shape[axis] = 4
        grown = torch.cat((old.read(), torch.zeros(shape)), dim=axis)
        reused[f"mlp.{name}.weight"] = InMemory(tuple(grown.shape), old.dtype, grown)
    return BranchChoice(layer, "mlp", replace(mlp, size=mlp.size + 4), reused=reused, proved=True)


def write(file: Path, *choices: BranchChoice, **changes: Any) -> Path:
    stated = {one.where: {k: v for k, v in one.record().items() if k != "sha256"} | changes for one in choices}
    values = {f"layers.{one.layer}.{name}": t.read() for one in choices for name, t in one.given.items()}
    save_file(values, file, {"branches": json.dumps(stated)})
    return file


def test_choices_are_read(source: LoadedModel, tmp_path: Path) -> None:
    gone = BranchChoice(0, "mixer", None)
    found = read_branches(write(tmp_path / "b.safetensors", padded(source), gone))
    assert [one.record() for one in found] == [padded(source).record(), gone.record()]
    assert [one.layer for one in found] == [1, 0]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"op": {"kind": "dense"}}, "layers.1.mlp.activation is missing"),
        ({"op": {"kind": "magic"}}, "kind is 'magic'"),
        ({"proved": 1}, "must be a branch"),
        ({"new": "all"}, "must be lists of names"),
        ({"new": ["mlp.side.weight"]}, "layers.1.mlp.side.weight is missing"),
        ({"reused": []}, "no branch names layers.1.mlp"),
    ],
)
def test_what_is_wrong_is_named(source: LoadedModel, tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    file = write(tmp_path / "b.safetensors", padded(source), **changes)
    with pytest.raises(InputError, match=line) as caught:
        read_branches(file)
    assert str(caught.value).startswith(str(file))


def test_a_file_without_branches_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"is no file of replaced branches .*; make it anew"):
        read_branches(tmp_path / "b.safetensors")


def recipe_of(source: LoadedModel, file: Path, out: Path) -> dict[str, Any]:
    return {"source": str(source.path), "out": str(out), "passes": [{"name": "replace-branches", "file": str(file)}]}


def test_an_exact_replacement_is_converted_and_proved_again(source: LoadedModel, tmp_path: Path) -> None:
    choices = [padded(source, layer) for layer in range(source.program.spec.depth)]
    file, out = write(tmp_path / "b.safetensors", *choices), tmp_path / "out"
    kept.convert(source.path, out, verify_tokens=64, passes=recipe_of(source, file, out)["passes"])
    record, after = read_record(out), open_model(out)
    assert record is not None
    assert str(tmp_path) not in json.dumps(record.table())
    assert record.new_parameters == ()
    assert claimed(source, after, record.chain).program is not None
    assert kept.verify(source.path, out, tokens=64).failure is None

    other = {**choices[0].reused, "mlp.up.weight": choices[0].reused["mlp.gate.weight"]}
    write(file, replace(choices[0], reused=other), *choices[1:])
    claim = claimed(source, after, record.chain)
    assert (claim.promise, claim.program) == (Promise.EXACT, None)
    file.unlink()
    assert claimed(source, after, record.chain).program is None


def test_a_fingerprint_sees_the_weights(source: LoadedModel) -> None:
    choice = padded(source)
    other = replace(choice, reused={**choice.reused, "mlp.up.weight": choice.reused["mlp.gate.weight"]})
    prints = [
        fingerprint(source, Recipe(str(source.path), "out", passes=(ReplaceBranches((one,)),)))
        for one in (choice, padded(source), other)
    ]
    assert prints[0] == prints[1] != prints[2]
    assert json.dumps(prints[0])

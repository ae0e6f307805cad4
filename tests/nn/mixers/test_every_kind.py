"""Every kind of operation is listed and has a module; a mixer's tests are a subclass of the contract."""

from __future__ import annotations

from importlib import import_module
from inspect import isabstract
from pathlib import Path

from kept.ir.spec import OPERATIONS, FeedForward, Mixer
from kept.nn.mixers import MIXERS
from kept.nn.mlp import MLPS
from support.mixer_contract import MixerContract

HERE = Path(__file__).parent


def test_every_kind_has_a_module() -> None:
    assert {kind for kind in OPERATIONS.values() if issubclass(kind, Mixer)} == {*MIXERS}
    assert {kind for kind in OPERATIONS.values() if issubclass(kind, FeedForward)} == {*MLPS}


def test_kinds_are_concrete_and_named_once() -> None:
    assert not any(isabstract(kind) for kind in OPERATIONS.values())
    assert {kind.KIND: kind for kind in OPERATIONS.values()} == OPERATIONS


def test_every_kind_is_tested_by_the_contract() -> None:
    files = sorted(HERE.glob("test_*.py"))
    found = [
        one for file in files for one in vars(import_module(f"nn.mixers.{file.stem}")).values() if isinstance(one, type)
    ]
    contracts = [one for one in found if issubclass(one, MixerContract) and one is not MixerContract]
    assert {type(spec) for contract in contracts for spec in contract.cases.values()} >= {*MIXERS}

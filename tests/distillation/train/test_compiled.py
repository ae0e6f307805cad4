"""Compiled layers: the same losses as eager ones, in one piece each."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch._dynamo.utils import counters

from kept.commands.heal import run_heal
from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import BatchStream
from kept.distillation.train.choose_trainable import trainable
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.process_group import Ranks
from kept.errors import InputError
from support.heal_data import tokens_of
from support.heal_runs import losses, settings
from support.logits import random_program
from support.pass_helpers import layer_spec

if TYPE_CHECKING:
    from pathlib import Path

    from kept.distillation.train.backbone import BackboneOutput

pytestmark = pytest.mark.slow

HERE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _anew() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize("train", ["norms", "lora"])
def test_a_compiled_run_is_the_eager_one(
    pair: tuple[Path, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str
) -> None:
    """Traced as for the compiler and run by torch: which parts a layer falls into does not depend on what runs them."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    eager = settings(pair, corpus, tmp_path / "eager", train=train, tokens=4 * 128, learning_rate=1e-3)
    run_heal(eager)
    run_heal(replace(eager, out=str(tmp_path / "compiled"), compile=True))
    found, wanted = (losses(tmp_path / name) for name in ("compiled", "eager"))
    assert found == pytest.approx(wanted, rel=1e-5)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch compiles C++, and nothing here does"
)
def test_what_the_compiler_makes_is_the_same() -> None:
    spec = layer_spec()
    program = random_program(replace(spec, layers=spec.layers[:1]))
    learns = trainable(program, "norms")
    batch = BatchStream(Mixture({"a": tokens_of([9] * 20)}), 2, 12).batch_at(0)
    batch = replace(batch, tokens_BT=batch.tokens_BT % 7)

    def loss(output: BackboneOutput) -> torch.Tensor:
        return output.head.hidden_ND.sin().square().mean()

    found = []
    for compiled in (False, True):
        trunk = load_backbone(program, torch.float32, HERE, learns, compiled=compiled)
        total = trunk(batch, loss)
        total.backward()
        found.append((total.detach(), *(p.grad for p in trunk.parameters() if p.requires_grad)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)  # sums in another order, of large gains
    assert not counters["graph_break"]


def test_without_a_compiler_one_line_states_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"compile: needs a C\+\+ compiler, and there is no no-such-compiler"):
        load_backbone(random_program(layer_spec()), torch.float32, HERE, compiled=True)

"""Calibration gives the inputs and outputs of every branch, as the whole model has them."""

from __future__ import annotations

import torch

from kept.compression.calibrate import ROWS, Calibration
from support.logits import model_of, random_program, some_tokens
from support.pass_helpers import layer_spec


def test_every_branch_runs_as_in_the_whole_model() -> None:
    program = random_program(layer_spec())
    tokens = some_tokens(ROWS + 2, 8, program.spec.vocabulary)
    streams = [*model_of(program, torch.float32).streams(tokens)]
    seen, done = list[tuple[int, str]](), list[int]()
    for layer, runs in Calibration(program, tokens).layers(done.append):
        batches = [*runs]
        seen += [(layer, one.branch.name) for one in batches[0]]
        after = torch.cat([branches[-1].after_BTD for branches in batches])
        assert torch.allclose(after, streams[layer + 1], atol=1e-4)
    assert seen == [(layer, name) for layer in range(3) for name in ("mixer", "mlp")]
    assert sum(done) == 3

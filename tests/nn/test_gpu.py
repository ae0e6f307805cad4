"""A model on a GPU computes what it computes on the CPU: logits, generated tokens and one training step."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.ir import spec as ir
from kept.nn import Model, generate
from support.logits import model_of, random_program, some_tokens, worst
from support.pass_helpers import MIXER, PLAIN, layer_spec, rms_spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; torch.cuda.is_available() is false"),
]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""In standard deviations: the devices add in another order. TF32, which rounds more, is off by default."""

SPECS = {
    "RMSNorm and gated MLP": rms_spec(),
    "LayerNorm, plain MLP and a window": layer_spec(replace(MIXER, window=5), PLAIN),
    "query-key norm": rms_spec(replace(MIXER, qk_norm=ir.QkNorm(ir.Norm("rms", 1e-3)))),
}
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [7]]
TOKENS = some_tokens(3, 24, 11)


def on_both(spec: ir.Spec, dtype: torch.dtype = torch.float64) -> tuple[Model, Model]:
    """Return the same model on the CPU and on the GPU."""
    model = model_of(random_program(spec), dtype)
    return model, copy.deepcopy(model).cuda()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", SPECS)
@torch.inference_mode()
def test_the_logits_are_equal(name: str, dtype: torch.dtype) -> None:
    on_cpu, on_gpu = on_both(SPECS[name], dtype)
    wanted, found = on_cpu(TOKENS), on_gpu(TOKENS.cuda())
    assert found.is_cuda
    assert worst(found.cpu(), wanted) < TOLERANCES[dtype]
    on_gpu.embedding.weight.mul_(1.01)
    assert worst(on_gpu(TOKENS.cuda()).cpu(), wanted) > TOLERANCES[dtype]  # negative control


@pytest.mark.parametrize("name", SPECS)
def test_a_padded_batch_is_continued_with_the_same_tokens(name: str) -> None:
    on_cpu, on_gpu = on_both(SPECS[name])
    wanted = generate(on_cpu, PROMPTS, 12)
    assert generate(on_gpu, PROMPTS, 12) == wanted
    assert len({token for row in wanted for token in row}) > 1  # a model that repeats itself would prove little


def step(model: Model, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weights after one step of SGD on next-token cross-entropy, on the CPU."""
    optimizer = torch.optim.SGD(model.requires_grad_().parameters(), lr=0.1)
    F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()
    return {name: weight.detach().cpu() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("name", SPECS)
def test_a_training_step_moves_every_weight_alike(name: str) -> None:
    on_cpu, on_gpu = on_both(SPECS[name])
    before = {name: weight.detach().clone() for name, weight in on_cpu.named_parameters()}
    wanted, found = step(on_cpu, TOKENS), step(on_gpu, TOKENS.cuda())
    for at, weight in wanted.items():
        torch.testing.assert_close(found[at], weight, rtol=1e-9, atol=1e-12)
    assert any(not torch.allclose(weight, before[at], rtol=1e-6) for at, weight in wanted.items())

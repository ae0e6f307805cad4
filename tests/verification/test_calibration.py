"""Calibration of norms: the statistics are their formulas, and the calibrated gain is the best one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.nn.norm import NormModule
from kept.passes.centre import Centre
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.passes.untie_head import UntieHead
from kept.verification.calibration import calibrate
from support.logits import model_of, program_of, some_tokens
from support.models import write_checkpoint
from support.tiny import EPS

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program

TOKENS = some_tokens(4, 32)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return program_of(write_checkpoint(tmp_path_factory.mktemp("orion"), "orion"))


def read_by(program: Program) -> dict[str, torch.Tensor]:
    """Return the input of each norm of the whole model, in float64, (N, D)."""
    model = model_of(program)
    out: dict[str, Any] = {}

    def note(name: str) -> object:
        return lambda _, inputs, __: out.__setitem__(name, inputs[0].flatten(0, 1))

    for name, module in model.named_modules():
        if isinstance(module, NormModule) and "mixer." not in name:
            module.register_forward_hook(note(name))  # type: ignore[arg-type]
    with torch.inference_mode():
        model(TOKENS)
    return out


def test_every_layer_norm_is_measured_once(program: Program) -> None:
    names = [f"layers.{i}.{which}_norm" for i in range(3) for which in ("mixer", "mlp")]
    assert [*calibrate(program, TOKENS)] == [*names, "final_norm"]


def test_every_figure_is_its_formula(program: Program) -> None:
    found, read = calibrate(program, TOKENS), read_by(program)
    for name, x_ND in read.items():
        gain, bias = (program.weights[f"{name}.{part}"].value("float64") for part in ("gain", "bias"))
        mean, std = x_ND.mean(-1, keepdim=True), x_ND.var(-1, correction=0, keepdim=True).sqrt()
        wanted = (x_ND - mean) / (std.square() + EPS).sqrt() * gain + bias
        r_ND = x_ND / (x_ND.square().mean(-1, keepdim=True) + EPS).sqrt()
        best = (r_ND * wanted).mean(0) / r_ND.square().mean(0)
        statistics = found[name]
        torch.testing.assert_close(statistics.gain, best, rtol=1e-4, atol=1e-4)
        assert statistics.mean_to_std == pytest.approx(float((mean.abs() / std).mean()), rel=1e-4)
        assert statistics.bias_to_gain == pytest.approx(float(bias.norm() / gain.norm()), rel=1e-6)
        for error, used in ((statistics.error_copied, gain), (statistics.error_calibrated, best)):
            assert error == pytest.approx(float((r_ND * used - wanted).norm() / wanted.norm()), rel=1e-4)


def test_the_calibrated_gain_is_better_than_the_copied_one_and_than_its_neighbours(program: Program) -> None:
    read = read_by(program)
    for name, statistics in calibrate(program, TOKENS).items():
        assert statistics.error_calibrated < statistics.error_copied
        x_ND = read[name]
        gain, bias = (program.weights[f"{name}.{part}"].value("float64") for part in ("gain", "bias"))
        wanted = torch.nn.functional.layer_norm(x_ND, x_ND.shape[-1:], gain, bias, EPS)
        r_ND = x_ND / (x_ND.square().mean(-1, keepdim=True) + EPS).sqrt()

        def error(used: torch.Tensor, r_ND: torch.Tensor = r_ND, wanted: torch.Tensor = wanted) -> float:
            return float((r_ND * used - wanted).norm())

        for step in (-0.01, 0.01):
            assert error(statistics.gain) < error(statistics.gain + step)


def test_on_a_centred_stream_only_the_bias_is_lost(program: Program) -> None:
    centred = Centre()(program)
    for statistics in calibrate(centred, TOKENS).values():
        assert statistics.mean_to_std < 1e-5
        assert 0 < statistics.error_copied < 1


def test_rms_norms_are_unchanged(tmp_path: Path) -> None:
    assert calibrate(program_of(write_checkpoint(tmp_path, "llama")), TOKENS) == {}


def test_a_norm_that_two_share_is_measured_once(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path, "stablelm", use_parallel_residual=True))
    assert [*calibrate(program, TOKENS)] == [*(f"layers.{i}.mixer_norm" for i in range(3)), "final_norm"]


def test_learned_positions_and_tied_heads_run(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path, "gpt2"))
    assert len(calibrate(program, TOKENS)) == 7


def test_the_gains_make_a_program(program: Program) -> None:
    gains = {name: statistics.gain for name, statistics in calibrate(program, TOKENS).items()}
    made = LayerNormToRms("calibrated", gains)(program)
    assert torch.equal(made.weights["final_norm.gain"].value("float64"), gains["final_norm"])
    assert "final_norm.bias" not in made.weights


def test_untied_heads_make_no_difference(tmp_path: Path) -> None:
    tied = program_of(write_checkpoint(tmp_path, "starcoder2"))
    before, after = calibrate(tied, TOKENS), calibrate(UntieHead()(tied), TOKENS)
    assert all(torch.equal(before[name].gain, after[name].gain) for name in before)


def test_progress_counts_layers(program: Program) -> None:
    calls: list[int] = []
    calibrate(program, TOKENS, calls.append)
    assert calls == [1] * 3

"""Truncated latent attention: the exact form at full size, the source's function where keys and values are low rank."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.compression.calibrate import Calibration
from kept.compression.latent.settings import TruncationSettings
from kept.compression.latent.sizes import CacheSize, planned_size
from kept.compression.latent.stand_in import stand_in
from kept.compression.latent.truncate import truncate
from kept.families import FAMILIES
from kept.families.deepseek_like import DEEPSEEK_V3
from kept.ir import spec as ir
from kept.ir.promise import Promise
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from kept.reporting import Silent
from support.logits import logits, model_of, random_program, some_tokens, stock_logits, worst
from support.pass_helpers import GATED, RMS_NORM, error, perturbed, replaced, rms_spec, save, value

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program
    from kept.passes.truncate_latent import TruncateLatent

ROPE = ir.Rope(100.0, 8)
BARE = ir.Attention(6, 3, 8, ROPE)
MLP = replace(GATED, gate_bias=False, up_bias=False, down_bias=False)
BIASED = replace(BARE, q_bias=True, k_bias=True, v_bias=True, o_bias=True)

ATTENTIONS = {
    "grouped": BARE,
    "biases": BIASED,
    "interleaved": replace(BARE, rope=replace(ROPE, interleaved=True)),
    "partial": replace(BIASED, rope=ir.Rope(100.0, 4)),
    "yarn": replace(BARE, rope=ir.Rope(100.0, 8, scaling=ir.Yarn(4.0, 8))),
}

FLOAT32 = 2e-5
"""Factors are computed from weights in float32."""

TOKENS = some_tokens(6, 24, rms_spec(BARE, MLP).vocabulary, seed=3)


def source(one: ir.Attention = BARE, **changes: Any) -> Program:
    return random_program(rms_spec(one, MLP, **changes))


def truncated(program: Program, **settings: Any) -> TruncateLatent:
    return truncate(Calibration(program, TOKENS), TruncationSettings(**settings), Silent(), {})


def whole(one: ir.Attention) -> tuple[int, int]:
    assert one.rope is not None
    rotary = one.kv_heads * one.rope.dims
    return rotary, 2 * one.kv_size - rotary


@pytest.mark.parametrize("method", ["whitened", "transmla"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_all_components_and_the_full_rank_are_the_source(name: str, method: str) -> None:
    """In any basis of each frequency."""
    program = source(ATTENTIONS[name])
    rewrite = truncated(program, sizes=whole(ATTENTIONS[name]), method=method, refit=False)
    assert rewrite.promise(program) is Promise.LOSSY
    assert error(rewrite(program), program) < FLOAT32


def low_rank_source(rank: int) -> Program:
    """A model whose keys and values are projections of `rank` numbers, and whose keys hardly turn."""
    still = replace(BARE, rope=ir.Rope(100.0, 8, scaling=ir.Linear(1e9)))
    program = source(still)
    random, changed = torch.Generator().manual_seed(1), {}
    for at in range(program.spec.depth):
        names = [f"layers.{at}.mixer.{one}.weight" for one in ("k", "v")]
        down = torch.randn(rank, program.spec.width, generator=random, dtype=torch.float64)
        for name in names:
            up = torch.randn(len(value(program, name)), rank, generator=random, dtype=torch.float64) / rank
            changed[name] = up @ down
    return replaced(program, changed)


def test_keys_and_values_of_low_rank_are_truncated_without_loss() -> None:
    program = low_rank_source(5)
    assert error(truncated(program, sizes=(2, 5))(program), program) < 1e-3
    assert error(truncated(program, sizes=(2, 4))(program), program) > 1e-2


def test_the_cache_is_as_large_as_the_plan_says() -> None:
    program = source()
    for share in (0.25, 0.5, 0.75, 0.875):
        settings = TruncationSettings(share=share)
        made = truncated(program, share=share, refit=False)
        mixer = made(program).spec.layers[0].mixer
        assert isinstance(mixer, ir.LatentAttention)
        assert share * 48 - 4 < mixer.cached_size <= share * 48
        assert made.about["share"] == mixer.cached_size / 48
        planned = stand_in(program, planned_size(BARE, settings), "uniform")(program).spec.layers[0].mixer
        assert isinstance(planned, ir.LatentAttention)
        assert (planned.kv_rank, planned.rope_dim) == (mixer.kv_rank, mixer.rope_dim)


def test_ranks_by_layer_take_no_more_than_one_rank_for_all() -> None:
    program = source()
    uniform, own = (truncated(program, share=0.5, ranks=rule, refit=False) for rule in ("uniform", "per-layer"))
    assert own.about["share"] <= uniform.about["share"]
    assert len({*own.about["ranks"]}) > 1
    assert own(program).spec.layers[0].mixer.kv_rank == own.about["ranks"][0] + 2  # type: ignore[union-attr]


def test_energy_chooses_the_sizes() -> None:
    program = source()
    little, much = (truncated(program, energy=energy, refit=False).about["share"] for energy in (0.8, 0.999))
    assert little < much


def test_the_refit_lowers_the_error_of_every_layer() -> None:
    program = source(BIASED)
    rewrite = truncated(program, share=0.5)
    assert all(after < 0.9 * before for before, after in rewrite.about["errors"])
    plain = truncated(program, share=0.5, refit=False)
    measured = tuple(error_of_first_layer(one(program), program) for one in (plain, rewrite))
    assert measured == pytest.approx(rewrite.about["errors"][0], rel=1e-3)


def error_of_first_layer(after: Program, program: Program) -> float:
    """The error of the mixer's output as the model computes it, at every second token."""
    model, teacher = (model_of(one, torch.float32) for one in (after, program))
    x, context = model.enter(TOKENS)
    (_, other), block = teacher.enter(TOKENS), teacher.layers[0]
    with torch.inference_mode():
        normed = block.mixer_norm(x)  # type: ignore[operator]
        bias = value(program, "layers.0.mixer.o.bias").float()
        wanted = block.mixer(normed, other) - bias  # type: ignore[operator]
        found = model.layers[0].mixer(normed, context) - bias  # type: ignore[operator]
        return float((found - wanted)[:, 1::2].square().sum() / wanted[:, 1::2].square().sum())


def test_the_whitened_method_loses_less_than_the_others() -> None:
    program = source()
    wanted, errors = logits(program, TOKENS), {}
    for method in ("whitened", "transmla", "paper"):
        after = truncated(program, share=0.75, method=method, refit=False)(program)
        errors[method] = float((logits(after, TOKENS) - wanted).norm())
    assert errors["whitened"] < errors["transmla"] < 2 * errors["paper"]


def test_it_is_deterministic() -> None:
    one, other = (truncated(source(), share=0.5).record() for _ in range(2))
    assert one == other


def test_noise_on_any_weight_shows() -> None:
    program = source()
    after = truncated(program, sizes=whole(BARE), refit=False)(program)
    for name in (name for name in after.weights if name.startswith("layers.0.mixer.")):
        assert error(perturbed(after, name), program) > 1e2 * FLOAT32, name


def test_another_frequency_shows() -> None:
    program = source()
    after = truncated(program, sizes=whole(BARE), refit=False)(program)
    mixer = after.spec.layers[0].mixer
    assert isinstance(mixer, ir.LatentAttention)
    assert mixer.rope is not None
    assert isinstance(mixer.rope.scaling, ir.LongRope)
    swapped = mixer.rope.scaling.short_factor[::-1]
    rope = replace(mixer.rope, scaling=replace(mixer.rope.scaling, short_factor=swapped, long_factor=swapped))
    layers = tuple(replace(one, mixer=replace(mixer, rope=rope)) for one in after.spec.layers)
    assert error(replace(after, spec=replace(after.spec, layers=layers)), program) > 1e3 * FLOAT32


def test_a_norm_bias_is_folded_into_the_truncated_layers() -> None:
    program = source(norm=replace(RMS_NORM, bias=True))
    after = truncated(program, share=0.5)(program)
    assert error(FoldNormBias()(after), after) < 1e-9


@pytest.mark.parametrize("target", ["deepseek_v3", "deepseek_v2"])
def test_stock_classes_compute_the_same(target: str, tmp_path: Path) -> None:
    program = source(replace(BARE, heads=4, kv_heads=2), norm=ir.Norm("rms", 1e-6))
    options = Options(dtype="F64", latent=truncated(program, share=0.5))
    after = legalise(program, FAMILIES[target].violations, options).program
    directory, tokens = save(after, FAMILIES[target], tmp_path / "out"), some_tokens(vocabulary=program.spec.vocabulary)
    assert worst(stock_logits(directory, tokens), logits(after, tokens)) < 1e-5


def test_a_stock_class_has_one_rank_for_all_layers() -> None:
    program = source()
    per_layer = stand_in(program, CacheSize(3, 20), "per-layer")(program)
    assert any(one.path.endswith("kv_rank") for one in DEEPSEEK_V3.violations(per_layer.spec))

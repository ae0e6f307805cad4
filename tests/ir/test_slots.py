"""Every weight, and every use of the residual stream, is accounted for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given

from kept.ir import spec as ir
from kept.ir.slots import readings, slots, writers
from kept.ir.spec.slot import Slot, Space
from support.specs import plain_spec, specs, with_layer, with_mixer, with_mlp

RESIDUAL = Space.RESIDUAL


def residual_axes(spec: ir.Spec) -> Counter[tuple[str, int]]:
    return Counter(
        (name, axis) for name, slot in slots(spec).items() for axis, space in enumerate(slot.axes) if space is RESIDUAL
    )


def used_axes(spec: ir.Spec) -> Counter[tuple[str, int]]:
    """Axes along the stream by what uses them: writers, the projections behind each norm, and the norms."""
    found = slots(spec)
    used = Counter(writers(spec))
    used.update((name, 0) for name in found if "_post_norm." in name)
    for reading in readings(spec):
        used.update((name, 0) for end in ("gain", "bias") if (name := f"{reading.norm}.{end}") in found)
        used.update((f"{name}.weight", 1) for name in reading.projections)
    if spec.head.tied:  # the embedding is then written from and read with the same axis
        del used["head.weight", 1]
    return used


@given(specs())
def test_each_axis_along_the_stream_has_exactly_one_use(spec: ir.Spec) -> None:
    assert used_axes(spec) == residual_axes(spec)


def test_a_lost_writer_would_show() -> None:
    """Negative control of the count above."""
    spec = with_mlp(plain_spec(), down_bias=True)
    lost = used_axes(spec) - Counter([("layers.1.mlp.down.bias", 0)])
    assert lost != residual_axes(spec)


@given(specs())
def test_shapes_and_spaces_agree(spec: ir.Spec) -> None:
    sizes: dict[object, set[int | None]] = {
        RESIDUAL: {spec.width},
        Space.VOCABULARY: {spec.vocabulary},
        Space.POSITIONS: {spec.positions},
    }
    for slot in slots(spec).values():
        assert len(slot.shape) == len(slot.axes)
        for size, space in zip(slot.shape, slot.axes, strict=True):
            assert size in sizes.get(space, {size})


@given(specs())
def test_every_projection_of_a_reading_is_there(spec: ir.Spec) -> None:
    found = slots(spec)
    for reading in readings(spec):
        for name in reading.projections:
            assert f"{name}.weight" in found or (name == "head" and spec.head.tied)
        assert (f"{reading.norm}.gain" in found) is reading.value.gain
        assert (f"{reading.norm}.bias" in found) is reading.value.bias


def test_slots_of_a_plain_decoder_in_the_order_of_use() -> None:
    assert list(slots(plain_spec(1))) == [
        "embedding.weight",
        "layers.0.mixer_norm.gain",
        "layers.0.mixer.q.weight",
        "layers.0.mixer.k.weight",
        "layers.0.mixer.v.weight",
        "layers.0.mixer.o.weight",
        "layers.0.mlp_norm.gain",
        "layers.0.mlp.gate.weight",
        "layers.0.mlp.up.weight",
        "layers.0.mlp.down.weight",
        "final_norm.gain",
        "head.weight",
    ]


@pytest.mark.parametrize("which", ["q", "k", "v", "o"])
def test_each_attention_bias_is_one_slot(which: str) -> None:
    spec = with_mixer(plain_spec(1), **{f"{which}_bias": True})
    assert set(slots(spec)) - set(slots(plain_spec(1))) == {f"layers.0.mixer.{which}.bias"}


@pytest.mark.parametrize("which", ["gate", "up", "down"])
def test_each_mlp_bias_is_one_slot(which: str) -> None:
    spec = with_mlp(plain_spec(1), **{f"{which}_bias": True})
    assert set(slots(spec)) - set(slots(plain_spec(1))) == {f"layers.0.mlp.{which}.bias"}


def test_grouped_heads_have_their_own_space() -> None:
    found = slots(with_mixer(plain_spec(1), heads=6, kv_heads=2, head_dim=4))
    assert found["layers.0.mixer.q.weight"] == Slot((24, 8), (Space.QUERIES, RESIDUAL), "matrix")
    assert found["layers.0.mixer.k.weight"] == Slot((8, 8), (Space.KEYS, RESIDUAL), "matrix")
    assert found["layers.0.mixer.o.weight"] == Slot((8, 24), (RESIDUAL, Space.QUERIES), "matrix")


def test_fused_projections_hold_their_parts() -> None:
    found = slots(with_mlp(with_mixer(plain_spec(1), heads=6, fused=True), fused=True))
    assert found["layers.0.mixer.qkv.weight"] == Slot((24 + 8 + 8, 8), (Space.FUSED, RESIDUAL), "matrix")
    assert found["layers.0.mlp.gate_up.weight"] == Slot((24, 8), (Space.CHANNELS, RESIDUAL), "matrix")


@pytest.mark.parametrize(("scope", "shape"), [("shared", (4,)), ("own", (6, 4)), ("full", (24,))])
def test_query_norms_by_scope(scope: str, shape: tuple[int, ...]) -> None:
    spec = with_mixer(plain_spec(1), heads=6, qk_norm=ir.QkNorm(ir.Norm("rms", 1e-6), scope))  # type: ignore[arg-type]
    assert slots(spec)["layers.0.mixer.q_norm.gain"].shape == shape
    assert "layers.0.mixer.q_norm.bias" not in slots(spec)


def test_a_shared_norm_is_read_by_mixer_and_mlp() -> None:
    (shared, final) = readings(with_layer(plain_spec(1), 0, mlp_norm=None, parallel=True, shared_norm=True))
    assert shared.projections == tuple(f"layers.0.{n}" for n in ("mixer.q", "mixer.k", "mixer.v", "mlp.gate", "mlp.up"))
    assert final.projections == ("head",)


def test_writers_are_the_embeddings_and_what_the_blocks_put_out() -> None:
    spec = replace(plain_spec(1), positions=16, head=ir.Head(bias=True))
    spec = with_mlp(with_mixer(spec, o_bias=True), down_bias=True)
    assert list(writers(spec)) == [
        ("embedding.weight", 1),
        ("positions.weight", 1),
        ("layers.0.mixer.o.weight", 0),
        ("layers.0.mixer.o.bias", 0),
        ("layers.0.mlp.down.weight", 0),
        ("layers.0.mlp.down.bias", 0),
    ]


def test_a_plain_decoder_has_the_parameters_one_counts_by_hand() -> None:
    layer = 2 * 8 + 4 * 8 * 8 + 3 * 8 * 12
    assert sum(prod(slot.shape) for slot in slots(plain_spec(3)).values()) == 2 * 11 * 8 + 3 * layer + 8

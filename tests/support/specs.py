"""Hypothesis strategies for every architecture that a spec can describe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from kept.ir import spec as ir

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

WIDTHS = (4, 6, 10)
VOCABULARY = 11
CONTEXT = 40

ACTIVATIONS: tuple[ir.Activation, ...] = ("silu", "gelu", "gelu_tanh", "relu", "relu2")


@st.composite
def norms(draw: DrawFn) -> ir.Norm:
    gain = draw(st.booleans())
    return ir.Norm(
        kind=draw(st.sampled_from(["layer", "rms"])),
        eps=draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        gain=gain,
        bias=draw(st.booleans()),
        offset=draw(st.sampled_from([0.0, 1.0])) if gain else 0.0,
    )


@st.composite
def scalings(draw: DrawFn, pairs: int) -> ir.Scaling:
    """Short original lengths, so that a few dozen tokens reach beyond them."""
    factor = draw(st.sampled_from([1.0, 2.0, 3.5]))
    original = draw(st.sampled_from([8, 16]))
    divisors = st.tuples(*[st.sampled_from([1.0, 1.5, 4.0])] * pairs)
    maybe = st.sampled_from([None, 0.5, 1.25])
    made: list[SearchStrategy[ir.Scaling]] = [
        st.just(ir.Linear(factor)),
        st.just(ir.Llama3(factor, 1.0, 4.0, original)),
        st.builds(ir.LongRope, divisors, divisors, st.just(original), st.just(factor), maybe),
        st.builds(
            ir.Yarn,
            st.just(factor),
            st.just(original),
            beta_fast=st.sampled_from([32.0, 4.0]),
            attention_factor=maybe,
            mscale=maybe,
            mscale_all_dim=maybe,
            truncate=st.booleans(),
        ),
    ]
    if pairs > 1:  # theta grows by a power of dims / (dims - 2)
        made.append(st.just(ir.Dynamic(factor, original)))
    return draw(st.one_of(made))


@st.composite
def ropes(draw: DrawFn, head_dim: int) -> ir.Rope:
    dims = 2 * draw(st.integers(1, head_dim // 2))
    if draw(st.booleans()):
        scaling: ir.Scaling | None = draw(st.one_of(st.none(), scalings(dims // 2)))
    else:
        scaling = draw(st.one_of(st.none(), st.sampled_from([ir.Proportional(), ir.Proportional(2.0)])))
    theta = draw(st.sampled_from([100.0, 10000.0]))
    return ir.Rope(theta, dims, interleaved=draw(st.booleans()), scaling=scaling)


@st.composite
def attentions(draw: DrawFn) -> ir.Attention:
    kv_heads, group = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    head_dim = draw(st.sampled_from([2, 4, 6]))
    fused = draw(st.booleans())
    q_bias, k_bias, v_bias = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    scope = draw(st.sampled_from([None, "shared", "own", "full"]))
    return ir.Attention(
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope=draw(st.one_of(st.none(), ropes(head_dim))),
        q_bias=q_bias,
        k_bias=q_bias if fused else k_bias,
        v_bias=q_bias if fused else v_bias,
        o_bias=draw(st.booleans()),
        qk_norm=None if scope is None else ir.QkNorm(draw(norms()), scope),  # type: ignore[arg-type]
        window=draw(st.sampled_from([None, 1, 3])),
        scale=draw(st.sampled_from([None, 0.25])),
        softcap=draw(st.sampled_from([None, None, 1.5])),
        fused=fused,
    )


@st.composite
def mlps(draw: DrawFn) -> ir.Mlp:
    gated = draw(st.booleans())
    fused = gated and draw(st.booleans())
    up_bias = draw(st.booleans())
    return ir.Mlp(
        size=draw(st.sampled_from([3, 8])),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        gated=gated,
        gate_bias=(up_bias if fused else draw(st.booleans())) if gated else False,
        up_bias=up_bias,
        down_bias=draw(st.booleans()),
        fused=fused,
    )


def multipliers() -> SearchStrategy[float]:
    """Mostly none."""
    return st.sampled_from([1.0, 1.0, 0.25, 3.0])


@st.composite
def heads(draw: DrawFn) -> ir.Head:
    return ir.Head(
        tied=draw(st.booleans()),
        bias=draw(st.booleans()),
        multiplier=draw(multipliers()),
        softcap=draw(st.sampled_from([None, None, 2.0])),
        normalised=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def layers(draw: DrawFn) -> ir.Layer:
    parallel = draw(st.booleans())
    shared = parallel and draw(st.booleans())
    before = st.one_of(norms(), norms(), st.just(ir.NO_NORM))
    behind = st.one_of(st.none(), st.none(), norms())
    mlp_norm = None if shared else draw(before)
    return ir.Layer(
        draw(attentions()),
        draw(mlps()),
        draw(before),
        mlp_norm,
        parallel,
        shared,
        mixer_post_norm=draw(behind),
        mlp_post_norm=draw(behind),
        residual_multiplier=draw(multipliers()),
    )


@st.composite
def specs(draw: DrawFn) -> ir.Spec:
    """Any decoder of one to three layers; half of them have layers that differ."""
    depth = draw(st.integers(1, 3))
    differ = draw(st.booleans())
    blocks = tuple(draw(layers()) for _ in range(depth)) if differ else (draw(layers()),) * depth
    if any(attention_of(block).rope is None for block in blocks) or draw(st.booleans()):
        positions: int | None = CONTEXT
    else:
        positions = None
    return ir.Spec(
        vocabulary=VOCABULARY,
        width=draw(st.sampled_from(WIDTHS)),
        context=CONTEXT,
        layers=blocks,
        final_norm=draw(norms()),
        head=draw(heads()),
        embedding_multiplier=draw(multipliers()),
        positions=positions,
        tokens=draw(st.sampled_from([ir.TokenIds(), ir.TokenIds(1, 2, 0), ir.TokenIds(eos=(2, 5))])),
    )


def plain_spec(depth: int = 2) -> ir.Spec:
    """The least remarkable decoder: tests change one thing about it."""
    norm = ir.Norm("rms", 1e-5)
    mixer = ir.Attention(heads=2, kv_heads=2, head_dim=4, rope=ir.Rope(100.0, 4))
    layer = ir.Layer(mixer, ir.Mlp(12, "silu"), norm, norm)
    return ir.Spec(VOCABULARY, 8, CONTEXT, (layer,) * depth, norm)


def attention_of(layer: ir.Layer) -> ir.Attention:
    """The attention of a layer that has one."""
    assert isinstance(layer.mixer, ir.Attention)
    return layer.mixer


def rope_of(layer: ir.Layer) -> ir.Rope:
    """The rotation of a layer that has one."""
    (rope,) = ropes_of(layer)
    return rope


def ropes_of(layer: ir.Layer) -> tuple[ir.Rope, ...]:
    """The rotation of a layer, if it has one."""
    assert layer.mixer is not None
    return layer.mixer.ropes


def mixer_norm_of(layer: ir.Layer) -> ir.Norm:
    """The norm before the mixer of a layer that has one."""
    assert layer.mixer_norm is not None
    return layer.mixer_norm


def mlp_of(layer: ir.Layer) -> ir.Mlp:
    """The MLP of a layer that has one."""
    assert isinstance(layer.mlp, ir.Mlp)
    return layer.mlp


def with_layer(spec: ir.Spec, index: int, **changes: Any) -> ir.Spec:
    """The spec with one layer changed."""
    changed = replace(spec.layers[index], **changes)
    return replace(spec, layers=(*spec.layers[:index], changed, *spec.layers[index + 1 :]))


def with_mixer(spec: ir.Spec, **changes: Any) -> ir.Spec:
    """The spec with every mixer changed."""
    changed = (replace(layer, mixer=replace(attention_of(layer), **changes)) for layer in spec.layers)
    return replace(spec, layers=tuple(changed))


def with_mlp(spec: ir.Spec, **changes: Any) -> ir.Spec:
    """The spec with every MLP changed."""
    changed = (replace(layer, mlp=replace(mlp_of(layer), **changes)) for layer in spec.layers)
    return replace(spec, layers=tuple(changed))

"""The architecture of a decoder, layer by layer, as a tree of frozen values.

A spec says what the model computes and which weights it has; it never holds a weight. Layers may differ.
Sizes are element counts. Everything here is plain data: equal specs describe the same architecture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


@dataclass(frozen=True)
class Norm:
    """A normalisation `(offset + gain) * x_hat + bias`; `kind` says how `x_hat` is made.

    layer: `(x - mean) / sqrt(var + eps)`; rms: `x / sqrt(mean(x^2) + eps)`; none: `x`, for a part that reads the stream
    as it is.
    """

    kind: Literal["layer", "rms", "none"]
    eps: float
    gain: bool = True
    bias: bool = False
    offset: float = 0.0


NO_NORM = Norm("none", 0.0, gain=False)
"""What stands before a part that reads the stream as it is."""


@dataclass(frozen=True)
class Linear:
    """Position interpolation (arXiv 2306.15595): every frequency is divided by `factor`."""

    factor: float


@dataclass(frozen=True)
class Dynamic:
    """NTK-aware scaling that grows theta with the sequence once it passes the original length."""

    factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Llama3:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, a smooth ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071): a ramp over wavelengths, and a temperature on cos and sin."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True)
class LongRope:
    """LongRoPE (arXiv 2402.13753): one divisor per frequency, short and long."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float
    attention_factor: float | None = None

    @property
    def temperature(self) -> float:
        """What cos and sin are multiplied by: the stated factor, or what the stock classes derive."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1 or self.original_max_position_embeddings == 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_position_embeddings))


@dataclass(frozen=True)
class Proportional:
    """The head is rotated as a whole, but frequencies past the first `dims / 2` are zero."""

    factor: float = 1.0


Scaling = Linear | Dynamic | Llama3 | Yarn | LongRope | Proportional


@dataclass(frozen=True)
class Rope:
    """Rotary positions (arXiv 2104.09864) on the first `dims` dimensions of each head.

    `interleaved` pairs dimension 2i with 2i+1; otherwise i pairs with i + half.
    """

    theta: float
    dims: int
    interleaved: bool = False
    scaling: Scaling | None = None


@dataclass(frozen=True)
class QkNorm:
    """A norm on queries and keys before rotation.

    shared: one gain of head size for all heads; own: each head its own gain; full: over all heads at once.
    """

    norm: Norm
    scope: Literal["shared", "own", "full"] = "shared"


@dataclass(frozen=True)
class Attention:
    """Softmax attention with grouped key-value heads (arXiv 2305.13245).

    `window` counts the keys a query sees, itself included; None sees all. `scale` None means head_dim^-0.5.
    `softcap` c bounds the scores as `c tanh(score / c)`. `fused` stores query, key and value as one projection, in that
    order.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    q_bias: bool = False
    k_bias: bool = False
    v_bias: bool = False
    o_bias: bool = False
    qk_norm: QkNorm | None = None
    window: int | None = None
    scale: float | None = None
    softcap: float | None = None
    fused: bool = False


@dataclass(frozen=True)
class Mlp:
    """`down(act(gate x) * up x)` when gated, `down(act(up x))` when not.

    `fused` stores gate and up as one projection, in that order.
    """

    size: int
    activation: Activation
    gated: bool = True
    gate_bias: bool = False
    up_bias: bool = False
    down_bias: bool = False
    fused: bool = False


@dataclass(frozen=True)
class Layer:
    """One block: mixer and MLP, each added to the residual stream, times `residual_multiplier`.

    Norms stand before the parts and, as post-norms, behind them, before the multiplier. Parallel: both read the same
    stream; `mlp_norm` None then means that the MLP shares the mixer's norm.
    """

    mixer: Attention
    mlp: Mlp
    mixer_norm: Norm
    mlp_norm: Norm | None
    parallel: bool = False
    mixer_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    residual_multiplier: float = 1.0

    def __post_init__(self) -> None:
        """A sequential block's MLP has a norm of its own, if only of kind none."""
        assert self.parallel or self.mlp_norm is not None


@dataclass(frozen=True)
class Head:
    """The output projection, `softcap(multiplier * (W x + b))`; tied means that W is the embedding's own matrix.

    `normalised` divides each row of W by its length when the model runs.
    """

    tied: bool = False
    bias: bool = False
    multiplier: float = 1.0
    softcap: float | None = None
    normalised: bool = False


@dataclass(frozen=True)
class TokenIds:
    """Special token ids. They do not change the function, but generation needs them."""

    bos: int | None = None
    eos: int | tuple[int, ...] | None = None
    pad: int | None = None


@dataclass(frozen=True)
class Spec:
    """A whole decoder.

    `context` is the number of positions it was made for; `positions` the rows of a learned position table.
    `centred` states that every write to the residual stream has zero mean: a fact about the weights that
    passes establish and rely on. No checkpoint format records it, so it is lost on disk.
    """

    vocabulary: int
    width: int
    context: int
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Head = field(default_factory=Head)
    positions: int | None = None
    tokens: TokenIds = field(default_factory=TokenIds)
    embedding_multiplier: float = 1.0
    centred: bool = False

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

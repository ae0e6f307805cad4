"""RoPE scaling in GGUF files: metadata keys, and frequency factors that are stored as tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kept.errors import CheckpointError
from kept.ir.tensors import Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kept.gguf.metadata import Metadata
    from kept.ir.tensors import Lazy

    Tensors = Mapping[str, Lazy]

FREQUENCIES = "rope_freqs.weight"
"""One factor per rotary pair, by which its frequency is divided."""

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
"""The two lists of factors of LongRoPE."""

MOST_PAIRS = 1 << 12
"""Rotary pairs of a head."""

RTOL = 2e-6
"""Relative tolerance for factors that the converter computed in float32."""

LENGTHS = (8192.0, 4096.0, 2048.0, 32768.0)
"""Candidates for the original context length in tokens, most common first, if the factors do not determine it."""


def scaling(metadata: Metadata, tensors: Tensors, theta: float, dims: int) -> dict[str, Any] | None:
    """Return the `rope_scaling` of a config, or None without scaling. `dims` is the rotary dimension of a head.

    Raises CheckpointError for a scaling that a config cannot express.
    """
    kind = metadata.get("rope.scaling.type")
    metadata.must_be(
        "rope.scale_linear", (1.0,), "an early converter wrote the file; convert the original checkpoint again"
    )
    original = metadata.get("rope.scaling.original_context_length")
    temperature = metadata.get("rope.scaling.attn_factor")
    if LONG in tensors or SHORT in tensors:
        return _longrope(metadata, tensors, original, temperature, dims)
    if FREQUENCIES in tensors:
        return _by_divisors(_vector(tensors, FREQUENCIES, dims), theta, dims, metadata.size("context_length"))
    if temperature not in (None, 1.0):
        raise metadata.wrong("rope.scaling.attn_factor", "1 unless frequency factors are stored")
    match kind:
        case None | "none":
            return None
        case "linear":
            factor = metadata.number("rope.scaling.factor")
            return None if factor in (0, 1) else {"rope_type": "linear", "type": "linear", "factor": factor}
        case "yarn":
            return _yarn(metadata, original)
        case _:
            raise metadata.wrong("rope.scaling.type", "none, linear, yarn, or longrope with its factors")


def _yarn(metadata: Metadata, original: object) -> dict[str, Any]:
    """Return YaRN's config (arXiv 2309.00071) from its keys."""
    metadata.must_be("rope.scaling.yarn_ext_factor", (1.0,), "only an extrapolation factor of 1 is supported")
    metadata.must_be("rope.scaling.yarn_log_multiplier", (0.0,), "a temperature multiplier is not supported")
    if type(original) is not int or original < 1:
        raise metadata.wrong("rope.scaling.original_context_length", "the length before scaling")
    names = {"attention_factor": "attn_factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow"}
    stated = {key: metadata.get(f"rope.scaling.yarn_{name}") for key, name in names.items()}
    return {
        "rope_type": "yarn",
        "factor": metadata.number("rope.scaling.factor"),
        "original_max_position_embeddings": original,
        **{key: value for key, value in stated.items() if value is not None},
    }


def _longrope(
    metadata: Metadata, tensors: Tensors, original: object, temperature: float | None, dims: int
) -> dict[str, Any]:
    """Return LongRoPE's config (arXiv 2402.13753): one list of factors for short texts and one for long texts."""
    short, long = (_vector(tensors, name, dims).tolist() for name in (SHORT, LONG))
    context = metadata.size("context_length")
    if type(original) is not int or original < 1:
        if short != long:
            raise CheckpointError(
                f"{metadata.architecture}.rope.scaling.original_context_length: missing, so the length from "
                "which the long factors apply is unknown; convert the original checkpoint"
            )
        original = context
    found = {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": original,
    }
    factor = max(1.0, context / original)
    derived = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    if temperature is not None and not math.isclose(temperature, derived, rel_tol=RTOL):
        found["attention_factor"] = temperature
    return found


def _by_divisors(divisors: NDArray[np.float64], theta: float, dims: int, context: int) -> dict[str, Any] | None:
    """Return the config for one factor per frequency: Llama 3's rule if it fits, else LongRoPE with one list."""
    if (divisors == 1).all():
        return None
    found = _llama3(divisors, theta, dims)
    if found is not None:
        return found
    both = divisors.tolist()
    return {
        "rope_type": "longrope",
        "short_factor": both,
        "long_factor": both,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def _llama3(divisors: NDArray[np.float64], theta: float, dims: int) -> dict[str, Any] | None:
    """Return the parameters of Llama 3's rule that give these factors; None if there are none.

    Between its two ends the rule for a factor d is linear in the frequency f: 1/d = (1 - s)/factor + s with
    s = (length f / 2 pi - low) / (high - low). Two points determine slope and intercept; `low` is fixed at 1.
    """
    factor, turns = float(divisors.max()), theta ** (-np.arange(0, dims, 2) / dims) / (2 * math.pi)
    if factor <= 1:
        return None
    between = (divisors > 1) & (divisors < factor)
    candidates = [(length, 4.0) for length in LENGTHS]
    if between.sum() > 1:
        smooth = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
        slope = (smooth[0] - smooth[-1]) / (turns[between][0] - turns[between][-1])
        start = smooth[0] - slope * turns[between][0]
        high = 1 - 1 / start if start < 0 else 0.0
        candidates = [(float(round(slope * (high - 1))), float(f"{high:.4g}")), *candidates]
    for length, high in candidates:
        if high > 1 and length >= 1 and np.allclose(_rule(turns, factor, length, high), divisors, rtol=RTOL, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": int(length),
            }
    return None


def _rule(turns: NDArray[np.float64], factor: float, length: float, high: float) -> NDArray[np.float64]:
    """Return Llama 3's factors for frequencies in turns per token, with `low` = 1."""
    smooth = np.clip((length * turns - 1) / (high - 1), 0, 1)
    found: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return found


def _vector(tensors: Tensors, name: str, dims: int) -> NDArray[np.float64]:
    """Return a stored list of frequency factors, shape (dims / 2,). Raises CheckpointError if it is malformed."""
    tensor = tensors.get(name)
    if not isinstance(tensor, Stored) or tensor.shape != (dims // 2,) or dims // 2 > MOST_PAIRS:
        raise CheckpointError(f"{name}: must be a float tensor of {dims // 2} elements")
    found = tensor.numbers()
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise CheckpointError(f"{name}: has a factor that is not positive and finite")
    # The shortest decimal of each float32: the number in the original config, before rounding.
    return np.array([float(str(np.float32(value))) for value in found])

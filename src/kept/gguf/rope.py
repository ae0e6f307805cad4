"""Rotary positions in GGUF files: keys, and divisors of frequencies that are stored as tensors."""

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

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"

MOST_PAIRS = 1 << 12

CLOSE = 2e-6
"""Relative: what float32 leaves of a divisor that the converter computed."""

RELEASED = (8192.0, 4096.0, 2048.0, 32768.0)
"""Original lengths, the commonest first, that a rule whose lower end is not seen may have."""


def scaling(metadata: Metadata, tensors: Tensors, theta: float, dims: int) -> dict[str, Any] | None:
    """The `rope_scaling` of a config; None where nothing is scaled. `dims` turn of each head, from `theta`.

    Raises CheckpointError for a scaling that cannot be said.
    """
    kind = metadata.get("rope.scaling.type")
    metadata.must_be("rope.scale_linear", (1.0,), "a file of the first converters; make it anew")
    original = metadata.get("rope.scaling.original_context_length")
    temperature = metadata.get("rope.scaling.attn_factor")
    if LONG in tensors or SHORT in tensors:
        return _longrope(metadata, tensors, original, temperature, dims)
    if FREQUENCIES in tensors:
        return _by_divisors(_vector(tensors, FREQUENCIES, dims), theta, dims, metadata.size("context_length"))
    if temperature not in (None, 1.0):
        raise metadata.wrong("rope.scaling.attn_factor", "1 where no divisors are stored")
    match kind:
        case None | "none":
            return None
        case "linear":
            factor = metadata.number("rope.scaling.factor")
            return None if factor in (0, 1) else {"rope_type": "linear", "type": "linear", "factor": factor}
        case "yarn":
            return _yarn(metadata, original)
        case _:
            raise metadata.wrong("rope.scaling.type", "none, linear, yarn, or longrope with its divisors")


def _yarn(metadata: Metadata, original: object) -> dict[str, Any]:
    """YaRN as its keys say it."""
    metadata.must_be("rope.scaling.yarn_ext_factor", (1.0,), "only a whole extrapolation is read")
    metadata.must_be("rope.scaling.yarn_log_multiplier", (0.0,), "a multiplier of the temperature is not read")
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
    """LongRoPE: a list for short texts and one for long."""
    short, long = (_vector(tensors, name, dims).tolist() for name in (SHORT, LONG))
    context = metadata.size("context_length")
    if type(original) is not int or original < 1:
        if short != long:
            raise CheckpointError(
                f"{metadata.architecture}.rope.scaling.original_context_length: missing, so that nobody knows from "
                "which length on the long divisors count; convert the original checkpoint"
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
    if temperature is not None and not math.isclose(temperature, derived, rel_tol=CLOSE):
        found["attention_factor"] = temperature
    return found


def _by_divisors(divisors: NDArray[np.float64], theta: float, dims: int, context: int) -> dict[str, Any] | None:
    """A divisor for each frequency: Llama 3's rule where it is that, else LongRoPE with one list for all lengths."""
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
    """The numbers of Llama 3's rule that give these divisors; None where none do.

    Between its ends the rule is linear in the frequency: 1/d = (1 - s)/factor + s with s = (length f / 2 pi - low) /
    (high - low). Two points give slope and start, and `low` = 1 fixes what these leave open.
    """
    factor, turns = float(divisors.max()), theta ** (-np.arange(0, dims, 2) / dims) / (2 * math.pi)
    if factor <= 1:
        return None
    between = (divisors > 1) & (divisors < factor)
    candidates = [(length, 4.0) for length in RELEASED]
    if between.sum() > 1:
        smooth = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
        slope = (smooth[0] - smooth[-1]) / (turns[between][0] - turns[between][-1])
        start = smooth[0] - slope * turns[between][0]
        high = 1 - 1 / start if start < 0 else 0.0
        candidates = [(float(round(slope * (high - 1))), float(f"{high:.4g}")), *candidates]
    for length, high in candidates:
        if high > 1 and length >= 1 and np.allclose(_rule(turns, factor, length, high), divisors, rtol=CLOSE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": int(length),
            }
    return None


def _rule(turns: NDArray[np.float64], factor: float, length: float, high: float) -> NDArray[np.float64]:
    """Llama 3's divisors of frequencies that turn so often a token."""
    smooth = np.clip((length * turns - 1) / (high - 1), 0, 1)
    found: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return found


def _vector(tensors: Tensors, name: str, dims: int) -> NDArray[np.float64]:
    """A stored list of divisors, one a pair of dimensions that turn."""
    tensor = tensors.get(name)
    if not isinstance(tensor, Stored) or tensor.shape != (dims // 2,) or dims // 2 > MOST_PAIRS:
        raise CheckpointError(f"{name}: must be there with {dims // 2} plain numbers")
    found = tensor.numbers()
    if not (np.isfinite(found).all() and (found > 0).all()):
        raise CheckpointError(f"{name}: holds what is no divisor")
    # What was written before it was rounded to float32.
    return np.array([float(str(np.float32(value))) for value in found])

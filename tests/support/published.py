"""Reference decoder, in float64 with a KV cache, for families that transformers has no class for.

It follows the public code of each family, or of other runtimes, and uses neither `kept.nn` nor transformers. Tensors
have Llama's names (`orphans.TWINS`). As in that code, `keys` counts padding, RoPE tables never shrink, and InternLM
caches keys before rotation.

Shapes: B batch, T tokens, S keys, H heads, E head size.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from support.orphans import TWINS
from support.stored import tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    Config = Mapping[str, Any]

CLIPPED = 1024.0
"""Aquila2's code clips scores at this magnitude, before the mask."""

LONGEST_LOGN = 32768
"""Positions up to which Qwen's code scales queries."""


def plain(theta: float, size: int) -> Tensor:
    """Return the angle per position of each pair of dimensions, in radians, (E / 2)."""
    return theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)


@dataclass
class Rotation:
    """RoPE frequencies for a pass over `keys` positions, and the factor on cosines and sines."""

    theta: float
    size: int
    context: int
    section: Config
    longest: int = 0

    def __call__(self, keys: int, *, first: bool) -> tuple[Tensor, float]:  # noqa: ARG002 - used by Qwen
        """Return both as in Llama's code of 2023: plain, linear, or dynamic with a table that never shrinks."""
        kind, factor = self.section.get("type", self.section.get("rope_type")), self.section.get("factor", 1.0)
        if kind == "linear":
            return plain(self.theta, self.size) / factor, 1.0
        if kind != "dynamic":
            return plain(self.theta, self.size), 1.0
        self.longest = max(self.longest, keys, self.context)
        return self.stretched(factor * self.longest / self.context - (factor - 1)), 1.0

    def stretched(self, alpha: float) -> Tensor:
        """Return NTK-aware frequencies: theta times alpha ** (E / (E - 2))."""
        return plain(self.theta * alpha ** (self.size / (self.size - 2)), self.size)


class InternLm(Rotation):
    """Dynamic scaling by the length of the current pass only."""

    def __call__(self, keys: int, *, first: bool) -> tuple[Tensor, float]:
        self.longest = 0
        return super().__call__(keys, first=first)


class Xverse(Rotation):
    """XVERSE-13B-256K: alpha is 2 * length / context - 1."""

    def __call__(self, keys: int, *, first: bool) -> tuple[Tensor, float]:
        alpha = keys / (self.context / 2) - 1 if keys > self.context and self.section else 1.0
        return (self.stretched(alpha) if self.section else super().__call__(keys, first=first)[0]), 1.0


class Qwen(Rotation):
    """Alpha is a power of two minus 1, fixed by the prompt's length for the whole generation."""

    alpha = 1.0

    def __call__(self, keys: int, *, first: bool) -> tuple[Tensor, float]:
        if first:
            self.alpha = max(2.0 ** math.ceil(math.log2(keys / self.context) + 1) - 1, 1.0)
        return self.stretched(self.alpha), 1.0


class MiniCpm(Rotation):
    """LongRoPE with a table for the whole context, recomputed for longer passes."""

    def __call__(self, keys: int, *, first: bool) -> tuple[Tensor, float]:
        if self.section.get("rope_type", self.section.get("type")) != "longrope":
            return super().__call__(keys, first=first)
        self.longest = max(self.longest, keys, self.context)
        original = self.section["original_max_position_embeddings"]
        divisors = self.section["long_factor" if self.longest > original else "short_factor"]
        factor = math.sqrt(1 + math.log(self.context / original) / math.log(original))
        return plain(self.theta, self.size) / torch.tensor(divisors, dtype=torch.float64), factor


class Exaone(Rotation):
    """Llama 3.1's scaling: long wavelengths are scaled, short ones kept, those between interpolated."""

    def __call__(self, keys: int, *, first: bool) -> tuple[Tensor, float]:
        if self.section.get("rope_type") != "llama3":
            return super().__call__(keys, first=first)
        original, factor = self.section["original_max_position_embeddings"], self.section["factor"]
        low, high = self.section["low_freq_factor"], self.section["high_freq_factor"]
        out = []
        for frequency in plain(self.theta, self.size).tolist():
            wave = 2 * math.pi / frequency
            smooth = (original / wave - low) / (high - low)
            between = (1 - smooth) * frequency / factor + smooth * frequency
            long = frequency / factor if wave > original / low else between
            out.append(frequency if wave < original / high else long)
        return torch.tensor(out, dtype=torch.float64), 1.0


ROTATIONS: Mapping[str, Callable[..., Rotation]] = {
    "internlm": InternLm,
    "xverse": Xverse,
    "qwen": Qwen,
    "minicpm": MiniCpm,
    "exaone": Exaone,
}


class Published:
    """A model with its KV cache. Each pass appends to the cache; `fresh` resets the model."""

    def __init__(self, directory: Path) -> None:
        self.config: Config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        stored = {name: tensor.double() for name, tensor in tensors_of(directory).items()}
        self.kind = self.config["model_type"]
        named = TWINS[self.kind](self.config, stored) if self.kind in TWINS else ({**self.config}, stored)
        self.sizes: Any
        self.sizes, self.weights = named
        self.heads, self.groups = self.sizes["num_attention_heads"], self.sizes["num_key_value_heads"]
        self.size = self.config["hidden_size"] // self.heads
        self.depth = self.sizes["num_hidden_layers"]
        self.fresh()

    def fresh(self) -> Published:
        """Reset cache and RoPE tables to their state after loading; return self."""
        rotary = self.config.get("rotary") or {}
        theta = rotary.get("base", self.config.get("rotary_emb_base", self.config.get("rope_theta", 10_000.0)))
        section = self.config.get("rope_scaling") or {}
        if rotary:
            section = {"type": rotary["type"], "factor": rotary.get("scaling_factor", 1.0)}
        self.context = self.config.get("seq_length", self.config["max_position_embeddings"])
        kind = self.kind if self.config.get("use_dynamic_ntk", True) else "plain"
        self.rotation = ROTATIONS.get(kind, Rotation)(float(theta), self.size, self.context, section)  # type: ignore[arg-type]
        return self.empty()

    def empty(self) -> Published:
        """Empty the cache and keep the RoPE tables; return self."""
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        return self

    def __call__(self, tokens_BT: Tensor, pads: Sequence[int] | None = None) -> Tensor:
        """Return the logits of tokens that follow the cache, (B, T, V). `pads`: left padding of each row."""
        past = self.keys[0].shape[2] if self.keys else 0
        pads_B = torch.tensor(pads if pads is not None else [0] * len(tokens_BT))
        keys = past + tokens_BT.shape[1]
        frequencies, factor = self.rotation(keys, first=past == 0)
        places_BS = (torch.arange(keys)[None] - pads_B[:, None]).clamp(min=0)
        angles_BSE = places_BS[:, :, None] * frequencies
        cos, sin = ((f(angles_BSE) * factor)[:, None] for f in (torch.cos, torch.sin))
        at_T, keys_S = torch.arange(past, keys), torch.arange(keys)
        hidden = (keys_S[None, None] > at_T[None, :, None]) | (keys_S[None, None] < pads_B[:, None, None])
        x = self.weights["model.embed_tokens.weight"][tokens_BT] * self.config.get("scale_emb", 1.0)
        residual = self.config["scale_depth"] / self.depth**0.5 if self.kind == "minicpm" else 1.0
        for i in range(self.depth):
            at = f"model.layers.{i}."
            normed = self._norm(f"{at}input_layernorm", x)
            x = x + residual * self._attend(i, f"{at}self_attn.", normed, (cos, sin), hidden)
            y = self._norm(f"{at}post_attention_layernorm", x)
            gate = self._linear(f"{at}mlp.gate_proj", y)
            up = self._linear(f"{at}mlp.up_proj", y)
            x = x + residual * self._linear(f"{at}mlp.down_proj", gate * gate.sigmoid() * up)
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        shrunk = self.config["dim_model_base"] / self.config["hidden_size"] if self.kind == "minicpm" else 1.0
        return self._norm("model.norm", x) @ head.T * shrunk

    def generate(self, tokens_BT: Tensor, count: int, pads: Sequence[int] | None = None) -> Tensor:
        """Generate `count` tokens greedily with the cache; return prompt and new tokens, (B, T + count)."""
        self.fresh()
        seen, new = tokens_BT, tokens_BT
        for _ in range(count):
            new = self(new, pads)[:, -1:].argmax(-1)
            seen = torch.cat((seen, new), dim=1)
        return seen

    def _norm(self, name: str, x: Tensor) -> Tensor:
        eps = self.config.get("rms_norm_eps", self.config.get("layer_norm_epsilon"))
        bias = self.weights.get(f"{name}.bias")
        if self.kind == "orion":
            x = x - x.mean(-1, keepdim=True)
        scaled = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * self.weights[f"{name}.weight"]
        return scaled if bias is None else scaled + bias

    def _linear(self, name: str, x: Tensor) -> Tensor:
        out, bias = x @ self.weights[f"{name}.weight"].T, self.weights.get(f"{name}.bias")
        return out if bias is None else out + bias

    def _attend(self, i: int, at: str, x: Tensor, turns: tuple[Tensor, Tensor], hidden: Tensor) -> Tensor:
        q, k, v = (self._linear(f"{at}{name}_proj", x).unflatten(-1, (-1, self.size)).transpose(1, 2) for name in "qkv")
        now = tuple(table[:, :, -x.shape[1] :] for table in turns)
        q = self._scaled(turned(q, *now), turns[0].shape[2])
        k = k if self.kind == "internlm" else turned(k, *now)
        if len(self.keys) > i:
            k, v = torch.cat((self.keys[i], k), dim=2), torch.cat((self.values[i], v), dim=2)
            self.keys[i], self.values[i] = k, v
        else:
            self.keys.append(k)
            self.values.append(v)
        if self.kind == "internlm":
            k = turned(k, *turns)
        k, v = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.size)
        if self.kind == "aquila":
            scores = scores.clamp(-CLIPPED, CLIPPED)
        weights = scores.masked_fill(hidden[:, None], -1e300).softmax(-1)
        mixed: Tensor = (weights @ v).transpose(1, 2).flatten(2)
        return self._linear(f"{at}o_proj", mixed)

    def _scaled(self, q: Tensor, keys: int) -> Tensor:
        """Scale queries by Qwen's log factor past its context."""
        if self.kind != "qwen" or keys <= self.context or not self.config.get("use_logn_attn", True):
            return q
        factors = [math.log(n, self.context) if n > self.context else 1.0 for n in range(1, keys + 1)]
        assert keys < LONGEST_LOGN
        return q * torch.tensor(factors[-q.shape[2] :], dtype=torch.float64)[:, None]


def turned(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate half-split pairs: dimension i with i + E / 2."""
    a, b = x_BHTE.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

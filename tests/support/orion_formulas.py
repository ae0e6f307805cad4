"""Logits of an Orion checkpoint from the published formulas."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def reference_orion(directory: Path, tokens: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Logits of an Orion checkpoint from the formulas of METHODS 1.1, one sequence and one head at a time."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    weights = {n: t.to(dtype) for file in directory.glob("*.safetensors") for n, t in load_file(file).items()}
    return torch.stack([_orion_sequence(config, weights, row) for row in tokens])


def _orion_sequence(config: dict[str, Any], w: dict[str, Tensor], tokens: Tensor) -> Tensor:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads

    def layer_norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()
        return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]

    def turn(x: Tensor) -> Tensor:
        """Dimension i pairs with i + size / 2; the pair of position p turns by p / theta^(2i / size)."""
        steps = torch.arange(len(x), dtype=torch.float64)[:, None]
        angle = steps * config["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        left, right = x.chunk(2, dim=-1)
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)

    def attend(at: str, x: Tensor) -> Tensor:
        q, k, v = (x @ w[f"{at}{name}_proj.weight"].T for name in "qkv")
        hidden = torch.full((len(x), len(x)), -math.inf, dtype=x.dtype).triu(1)
        out = []
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            group = head // (heads // kv_heads)
            theirs = slice(group * size, (group + 1) * size)
            scores = turn(q[:, mine]) @ turn(k[:, theirs]).T / math.sqrt(size) + hidden
            out.append(scores.softmax(-1) @ v[:, theirs])
        return torch.cat(out, dim=-1) @ w[f"{at}o_proj.weight"].T

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        x = x + attend(f"{at}self_attn.", layer_norm(f"{at}input_layernorm", x))
        y = layer_norm(f"{at}post_attention_layernorm", x)
        gate = y @ w[f"{at}mlp.gate_proj.weight"].T
        x = x + (gate * gate.sigmoid() * (y @ w[f"{at}mlp.up_proj.weight"].T)) @ w[f"{at}mlp.down_proj.weight"].T
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return layer_norm("model.norm", x) @ w[head].T

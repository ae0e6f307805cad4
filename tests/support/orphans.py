"""Families that transformers has no class for: their reference is a stock class with the same weights in its own order.

The maps below are written from the families' public code, one tensor at a time, and know nothing of the tables.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from support.contract import FamilyContract
from support.logits import stock_logits
from support.orphan_tensors import key_value_heads
from support.stored import tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from kept.checkpoint.reader import Checkpoint

    Config = Mapping[str, Any]
    Tensors = dict[str, Tensor]


class OrphanContract(FamilyContract):
    """Logits, generations and conversions equal those of the stock class that `twin` writes.

    Needs the family in `TWINS`, in `orphan_tensors.TENSORS` and in `models.TINY`.
    """

    defaults: ClassVar[dict[str, Any]]
    """Defaults of the public configuration class for absent or null keys."""

    def reference(
        self, directory: Path, tokens: Tensor, dtype: torch.dtype, pads: Sequence[int] | None = None
    ) -> Tensor:
        """Logits of the stock class with the same weights."""
        return stock_logits(twin(directory), tokens, dtype, pads)

    def stock_generation(self, directory: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
        return super().stock_generation(twin(directory), prompts, count)

    @pytest.mark.parametrize("how", ["absent", "null"])
    def test_what_a_config_leaves_out(self, checkpoint: Checkpoint, how: str) -> None:
        """There is no stock class to ask: it means what the public configuration says."""
        for key, value in self.defaults.items():
            rest = {k: v for k, v in checkpoint.config.items() if k != key}
            left_out = {**rest, key: None} if how == "null" else rest
            assert self.family.read_config(left_out) == self.family.read_config({**rest, key: value}), key


def twin(directory: Path) -> Path:
    """The stock checkpoint that computes the same, beside the given one and in float64; written once."""
    out = directory.with_name(f"{directory.name}-twin")
    if out.is_dir():
        return out
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    stored = {name: tensor.double() for name, tensor in tensors_of(directory).items()}
    theirs, tensors = TWINS[config["model_type"]](config, stored)
    whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    out.mkdir()
    save_file(whole, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({**theirs, "torch_dtype": "float64"}), encoding="utf-8")
    return out


def as_llama(config: Config, **changes: object) -> dict[str, Any]:
    """Return a Llama's config with the same sizes, from Llama's keys and `changes`. A key that is None is left out."""
    common = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("max_position_embeddings", "rms_norm_eps", "hidden_act", "rope_theta", "rope_scaling")
    out = {
        **{key: config.get(key) for key in (*common, *more, "tie_word_embeddings", "bos_token_id", "eos_token_id")},
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_key_value_heads": config.get("num_key_value_heads") or config.get("num_attention_heads"),
        **changes,
    }
    return {key: value for key, value in out.items() if value is not None}


def same(config: Config, tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Aquila, XVERSE: the names are Llama's."""
    return as_llama(config), tensors


def internlm(config: Config, tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """The base of the rotation, and its growth beyond the context, stand in a section of their own."""
    rotary = config["rotary"]
    scaling = {"rope_type": "dynamic", "factor": rotary.get("scaling_factor", 1.0)}
    theirs = as_llama(
        config,
        attention_bias=config.get("bias", True),
        rope_theta=rotary["base"],
        rope_scaling=scaling if rotary["type"] == "dynamic" else None,
        num_key_value_heads=config["num_attention_heads"],
    )
    return theirs, tensors


def internlm2(config: Config, tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Rows of wqkv by key-value head: its queries, its key, its value."""
    size = config["hidden_size"] // config["num_attention_heads"]
    groups = config["num_key_value_heads"]
    names = {
        "attention_norm": "input_layernorm",
        "attention.wo": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
        "tok_embeddings": "embed_tokens",
    }
    out: Tensors = {}
    for name, tensor in tensors.items():
        if ".wqkv." not in name:
            renamed = next((name.replace(old, new) for old, new in names.items() if old in name), name)
            out[renamed.replace("output.weight", "lm_head.weight")] = tensor
            continue
        grouped = tensor.reshape(groups, -1, size, *tensor.shape[1:])
        for part, heads in (("q", grouped[:, :-2]), ("k", grouped[:, -2:-1]), ("v", grouped[:, -1:])):
            out[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = heads.reshape(-1, *tensor.shape[1:])
    return as_llama(config, attention_bias=config.get("bias", True)), out


def baichuan(config: Config, tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Three blocks of rows; in the second generation each row of the head has length one."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if "W_pack" in name:
            out.update({name.replace("W_pack", f"{p}_proj"): b for p, b in zip("qkv", tensor.chunk(3), strict=True)})
        else:
            out[name] = tensor
    if "z_loss_weight" in config:
        head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
        out["lm_head.weight"] = out[head] / out[head].square().sum(1, keepdim=True).sqrt()
    untied = False if "z_loss_weight" in config else config["tie_word_embeddings"]
    return as_llama(config, num_key_value_heads=config["num_attention_heads"], tie_word_embeddings=untied), out


def deci(config: Config, tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Every query head gets its own copy of the keys and values that it reads."""
    heads = config["num_attention_heads"]
    size = config["hidden_size"] // heads
    out: Tensors = {}
    for name, tensor in tensors.items():
        out[name] = tensor
        if ".k_proj." in name or ".v_proj." in name:
            mine = key_value_heads(config, int(name.split(".")[2]))
            rows = [tensor[head * mine // heads * size :][:size] for head in range(heads)]
            out[name] = torch.cat(rows)
    return as_llama(config, num_key_value_heads=heads, attention_bias=config.get("attention_bias", False)), out


def exaone(config: Config, tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Other names for everything."""
    names = {
        "transformer.wte": "model.embed_tokens",
        "transformer.ln_f": "model.norm",
        "transformer.h": "model.layers",
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
        "attn.attention.out_proj": "self_attn.o_proj",
        "attn.attention": "self_attn",
        "mlp.c_fc_0": "mlp.gate_proj",
        "mlp.c_fc_1": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    }
    out: Tensors = {}
    for name, tensor in tensors.items():
        renamed = name
        for old, new in names.items():
            renamed = renamed.replace(old, new)
        out[renamed] = tensor
    theirs = as_llama(
        config,
        num_hidden_layers=config["num_layers"],
        rms_norm_eps=config["layer_norm_epsilon"],
        hidden_act=config.get("activation_function", "silu"),
    )
    return theirs, out


def qwen(config: Config, tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """w2 is the gate and w1 what it lets through; where there is no output bias Llama's is zero."""
    width = config["hidden_size"]
    out: Tensors = {"model.embed_tokens.weight": tensors["transformer.wte.weight"]}
    out["model.norm.weight"] = tensors["transformer.ln_f.weight"]
    if "lm_head.weight" in tensors:
        out["lm_head.weight"] = tensors["lm_head.weight"]
    names = {
        "ln_1": "input_layernorm",
        "attn.c_proj": "self_attn.o_proj",
        "ln_2": "post_attention_layernorm",
        "mlp.w2": "mlp.gate_proj",
        "mlp.w1": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    }
    for i in range(config["num_hidden_layers"]):
        at, to = f"transformer.h.{i}.", f"model.layers.{i}."
        for kind in ("weight", "bias"):
            blocks = tensors[f"{at}attn.c_attn.{kind}"].split(width)
            out.update({f"{to}self_attn.{p}_proj.{kind}": b for p, b in zip("qkv", blocks, strict=True)})
            out.update(
                {
                    f"{to}{new}.{kind}": t
                    for old, new in names.items()
                    if (t := tensors.get(f"{at}{old}.{kind}")) is not None
                }
            )
        out.setdefault(f"{to}self_attn.o_proj.bias", torch.zeros(width, dtype=torch.float64))
    theirs = as_llama(
        config,
        intermediate_size=config["intermediate_size"] // 2,
        max_position_embeddings=config["seq_length"],
        rms_norm_eps=config["layer_norm_epsilon"],
        rope_theta=config["rotary_emb_base"],
        attention_bias=True,
        mlp_bias=not config.get("no_bias", True),
    )
    return theirs, out


def minicpm(config: Config, tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """Granite has the same multipliers under other names."""
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    theirs = as_llama(
        config,
        architectures=["GraniteForCausalLM"],
        model_type="granite",
        attention_bias=config.get("attention_bias", False),
        attention_multiplier=(width // config["num_attention_heads"]) ** -0.5,
        embedding_multiplier=float(config["scale_emb"]),
        residual_multiplier=config["scale_depth"] / depth**0.5,
        logits_scaling=width / config["dim_model_base"],
    )
    return theirs, tensors


TWINS: Mapping[str, Callable[[Config, Tensors], tuple[dict[str, Any], Tensors]]] = {
    "aquila": same,
    "baichuan": baichuan,
    "deci": deci,
    "exaone": exaone,
    "internlm": internlm,
    "internlm2": internlm2,
    "minicpm": minicpm,
    "qwen": qwen,
    "xverse": same,
}
"""By `model_type`: a stock config and its tensors, from a config and its tensors in float64."""

"""Tiny checkpoints of every family with strong random weights, and the two ways to run them: ours and theirs.

A weight near its initial value (gains 1, biases 0) hides mistakes, so here none is: every parameter matters.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from kept.checkpoint.reader import open_checkpoint
from kept.families import family_of
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import InMemory
from kept.nn import Model
from support.orphan_tensors import TENSORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from kept.ir.spec import Spec

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
"""Real checkpoints and texts; not part of the repository."""

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data, which are not at {DATA}")

VOCABULARY = 97

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 1000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def without(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The config less some keys."""
    return {k: v for k, v in config.items() if k not in keys}


EPS = 1e-3
"""Large enough that a forgotten or a default epsilon shows in the logits."""

ORION_CONFIG = {
    **SIZES,
    "architectures": ["OrionForCausalLM"],
    "model_type": "orion",
    "hidden_act": "silu",
    "rms_norm_eps": EPS,
    "max_sequence_length": 128,
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}

ORPHAN = {**SIZES, "hidden_act": "silu", "rms_norm_eps": EPS, "tie_word_embeddings": False}
"""Config keys of most families without a stock class."""

TINY: Mapping[str, Mapping[str, Any]] = {
    "cohere": {**SIZES, "layer_norm_eps": EPS, "logit_scale": 0.75},
    "falcon": {
        **without(SIZES, "intermediate_size", "num_key_value_heads"),
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "layer_norm_epsilon": EPS,
    },
    "gemma": {**SIZES, "rms_norm_eps": EPS, "head_dim": 16, "pad_token_id": None},
    "aquila": {**ORPHAN, "model_type": "aquila", "pad_token_id": 0},
    "baichuan": {
        **without(ORPHAN, "num_key_value_heads", "rope_theta"),
        "model_type": "baichuan",
        "pad_token_id": 0,
    },
    "deci": {
        **{key: value for key, value in ORPHAN.items() if key != "num_key_value_heads"},
        "model_type": "deci",
        "num_key_value_heads_per_layer": [1, 4, 2],
    },
    "exaone": {
        "model_type": "exaone",
        **{key: value for key, value in SIZES.items() if key != "num_hidden_layers"},
        "num_layers": 3,
        "activation_function": "silu",
        "layer_norm_epsilon": EPS,
        "tie_word_embeddings": False,
    },
    "gemma2": {
        **SIZES,
        "rms_norm_eps": EPS,
        "head_dim": 16,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
        "sliding_window": 7,
        "pad_token_id": None,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 128,
        "layer_norm_epsilon": EPS,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "granite": {
        **SIZES,
        "rms_norm_eps": EPS,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.4,
        "logits_scaling": 1.3,
    },
    "gpt_neox": {
        **without(SIZES, "num_key_value_heads", "rope_theta"),
        "rotary_emb_base": 1000.0,
        "layer_norm_eps": EPS,
    },
    "internlm": {
        **{key: value for key, value in ORPHAN.items() if key not in {"num_key_value_heads", "rope_theta"}},
        "model_type": "internlm",
        "rotary": {"base": 1000, "type": "dynamic"},
        "pad_token_id": 2,
    },
    "internlm2": {**ORPHAN, "model_type": "internlm2", "bias": False, "pad_token_id": 2},
    "llama": {**SIZES, "rms_norm_eps": EPS},
    "minicpm": {
        **ORPHAN,
        "model_type": "minicpm",
        "scale_emb": 3,
        "scale_depth": 1.4,
        "dim_model_base": 48,
    },
    "mistral": {**SIZES, "rms_norm_eps": EPS, "sliding_window": None},
    "nemotron": {**SIZES, "norm_eps": EPS},
    "olmo": {**SIZES, "pad_token_id": None},
    "olmo2": {**SIZES, "rms_norm_eps": EPS, "pad_token_id": None},
    "orion": ORION_CONFIG,
    "phi": {**SIZES, "layer_norm_eps": EPS},
    "phi3": {**SIZES, "rms_norm_eps": EPS, "pad_token_id": None},
    "qwen": {
        "model_type": "qwen",
        **{
            key: SIZES[key]
            for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "bos_token_id")
        },
        "eos_token_id": 2,
        "intermediate_size": 192,
        "kv_channels": 16,
        "seq_length": 128,
        "max_position_embeddings": 256,
        "rotary_emb_base": 1000,
        "rotary_pct": 1.0,
        "layer_norm_epsilon": EPS,
        "scale_attn_weights": True,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "tie_word_embeddings": False,
    },
    "qwen2": {**SIZES, "rms_norm_eps": EPS},
    "qwen3": {**SIZES, "rms_norm_eps": EPS, "head_dim": 16},
    "smollm3": {**SIZES, "rms_norm_eps": EPS, "no_rope_layer_interval": 2, "pad_token_id": None},
    "stablelm": {**SIZES, "layer_norm_eps": EPS},
    "starcoder2": {**SIZES, "norm_epsilon": EPS},
    "xverse": {**ORPHAN, "model_type": "xverse"},
}
"""The config of each family's tiny model; what is not stated is the stock class's default."""


LESS_ONE = ("gemma", "gemma2", "nemotron")
"""Families that store gains less 1."""


def write_checkpoint(
    directory: Path, family_name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any
) -> Path:
    """A tiny random checkpoint on disk; `overrides` change its config. Returns the directory."""
    return write_model(directory, family_name, {**TINY[family_name], **overrides}, dtype=dtype, seed=seed)


def write_model(
    directory: Path,
    family_name: str,
    config: dict[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Write a tiny random checkpoint with the given config; return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    if family_name == "orion":
        _write_named(directory, config, _orion_tensors(config), dtype, random)
    elif family_name in TENSORS:
        _write_named(directory, config, TENSORS[family_name](config), dtype, random)
    else:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family_name, **config))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(strong(name, tuple(parameter.shape), random))
                if family_name in LESS_ONE and "norm" in name and name.endswith("weight"):
                    parameter.sub_(1)
        model.to(dtype).save_pretrained(directory)
    return directory


def strong(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Random values for a tensor of any family: gains 1±0.3, norm biases 0.3±0.2, and logits that vary by about 2.

    Matrices have a mean, so that what they write to the residual stream has one too.
    """
    noise = torch.randn(shape, generator=random)
    is_norm = "norm" in name or ".ln_" in name
    if name.endswith("bias"):
        return 0.3 + 0.2 * noise if is_norm else 0.3 * noise
    if len(shape) == 1 or is_norm:
        return 1 + 0.3 * noise
    return 1.5 * (noise + 0.1) / math.sqrt(shape[0 if ".c_" in name and "mlp.c" not in name else 1])


def _write_named(
    directory: Path,
    config: dict[str, Any],
    shapes: Iterable[tuple[str, tuple[int, ...]]],
    dtype: torch.dtype,
    random: torch.Generator,
) -> None:
    tensors = {name: strong(name, shape, random).to(dtype) for name, shape in shapes}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    stated = {**config, "torch_dtype": str(dtype).removeprefix("torch.")}
    (directory / "config.json").write_text(json.dumps(stated, indent=1), encoding="utf-8")


def _orion_tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes from METHODS 1.1: those of Llama, and a bias at each norm."""
    width, size, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocabulary, width)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}{norm}.weight", (width,)
            yield f"{at}{norm}.bias", (width,)
        for projection, out in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            yield f"{at}self_attn.{projection}_proj.weight", (out, width)
        yield f"{at}mlp.gate_proj.weight", (size, width)
        yield f"{at}mlp.up_proj.weight", (size, width)
        yield f"{at}mlp.down_proj.weight", (width, size)
    yield "model.norm.weight", (width,)
    yield "model.norm.bias", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocabulary, width)


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


def frequencies(theta: float = 1000.0, dims: int = 16) -> Tensor:
    """Return inv_freq of plain RoPE, as old checkpoints store it; by default that of the tiny Llama."""
    return 1 / theta ** (torch.arange(0, dims, 2) / dims)


def program_of(directory: Path) -> Program:
    """The program of a checkpoint on disk."""
    checkpoint = open_checkpoint(directory)
    return family_of(checkpoint.config).read(checkpoint.config, checkpoint.tensors)


def model_of(program: Program, dtype: torch.dtype = torch.float64) -> Model:
    """The universal model with every weight computed in float64 and rounded to `dtype`."""
    return Model.load(program, dtype, "float64")


@torch.inference_mode()
def logits(
    program: Program, tokens: Tensor, dtype: torch.dtype = torch.float64, pads: Sequence[int] | None = None
) -> Tensor:
    """Our logits, (B, T, V); `pads` counts the padding at the left of each row."""
    return model_of(program, dtype)(tokens, pads_B=None if pads is None else torch.tensor(pads))


def stock(directory: Path, dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> PreTrainedModel:
    """The stock class's model of a checkpoint. Its plain attention ("eager") takes the softmax in float32 whatever the
    weights have, and gives rows of padding no number in float64."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention)
    return model.eval()


@torch.inference_mode()
def stock_logits(
    directory: Path, tokens: Tensor, dtype: torch.dtype = torch.float64, pads: Sequence[int] | None = None
) -> Tensor:
    """The stock class's logits. Positions are stated: not every class numbers them from the first real token."""
    model = stock(directory, dtype)
    if pads is None:
        return model(tokens).logits
    steps = torch.arange(tokens.shape[1])[None] - torch.tensor(pads)[:, None]
    return model(tokens, attention_mask=(steps >= 0).long(), position_ids=steps.clamp(min=0)).logits


def some_tokens(batch: int = 2, length: int = 24, vocabulary: int = VOCABULARY, seed: int = 7) -> Tensor:
    """Random token ids, (B, T), none of them special."""
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def random_program(spec: Spec, seed: int = 0) -> Program:
    """A program in memory with strong random float64 weights for any spec."""
    random = torch.Generator().manual_seed(seed)
    values = {name: _slot_values(name, slot.shape, random) for name, slot in slots(spec).items()}
    return Program(spec, {name: InMemory(tuple(value.shape), "F64", value) for name, value in values.items()})


def _slot_values(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    stored = f"{name.removesuffix('gain')}weight" if name.endswith("gain") else name
    return strong(stored, shape, random).double()


def worst(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, in units of the standard deviation of `theirs`."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().std())

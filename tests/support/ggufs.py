"""GGUF files of the tests' tiny checkpoints, written by the published rules of llama.cpp's converter.

Tensor names come from the gguf package's map. The rules for tensors and keys of each architecture follow
`conversion/*.py` of llama.cpp and do not use kept's tables. `compat/gguf_files.py` compares with the converter itself.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from safetensors.torch import load_file

from kept.checkpoint.sentencepiece_model import PieceKind, read_model
from kept.checkpoint.tiktoken import letters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Config = Mapping[str, Any]
    Array = np.ndarray[Any, Any]

FAMILIES = {
    "cohere": "command-r",
    "gpt_neox": "gptneox",
    "mistral": "llama",
    "phi": "phi2",
}
"""llama.cpp's architecture names that differ from the family's."""

LAYER_NORMS = {"command-r", "falcon", "gpt2", "gptneox", "nemotron", "olmo", "orion", "phi2", "stablelm", "starcoder2"}

NEIGHBOURS = {"llama", "deci", "granite", "smollm3", "olmo", "minicpm", "xverse", "internlm2", "baichuan"}
"""Architectures with interleaved RoPE pairs: the converter permutes their query and key rows."""


@dataclass(frozen=True)
class Made:
    """The contents of a GGUF file: architecture, its keys without prefix, tensors, and other keys."""

    architecture: str
    keys: dict[str, Any]
    tensors: dict[str, Array]
    others: dict[str, Any] = field(default_factory=dict)


def architecture_of(family: str) -> str:
    """Return llama.cpp's name of a family's architecture."""
    return FAMILIES.get(family, family)


def made_of(directory: Path, family: str) -> Made:
    """Return the contents of the GGUF file that the converter makes from a checkpoint."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    stored = {name: tensor.float().numpy() for name, tensor in load_file(directory / "model.safetensors").items()}
    architecture = architecture_of(family)
    tensors = dict(_named(architecture, config, stored))
    return Made(architecture, dict(_keys(architecture, config)), tensors)


def write(
    file: Path, made: Made, kinds: Callable[[str, Array], gguf.GGMLQuantizationType | None] | None = None
) -> Path:
    """Write a GGUF file; `kinds` returns the quantisation type of a tensor, None for float32."""
    writer = gguf.GGUFWriter(file, made.architecture)
    for key, value in {**{f"{made.architecture}.{k}": v for k, v in made.keys.items()}, **made.others}.items():
        _add(writer, key, value)
    for name, tensor in made.tensors.items():
        kind = kinds(name, tensor) if kinds is not None else None
        data = np.ascontiguousarray(tensor, dtype=np.float32)
        writer.add_tensor(name, data if kind is None else gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


# ------------------------------------------------------------------------------------------------------------ keys


def _first(config: Config, *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _keys(architecture: str, config: Config) -> Iterator[tuple[str, Any]]:
    width = _first(config, "hidden_size", "n_embd")
    heads = _first(config, "num_attention_heads", "n_head")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    yield "block_count", _first(config, "num_hidden_layers", "n_layer", "num_layers")
    yield "context_length", _first(config, "seq_length", "max_position_embeddings", "n_positions")
    yield "embedding_length", width
    yield "feed_forward_length", _first(config, "ffn_hidden_size", "intermediate_size", "n_inner") or 4 * width
    yield "attention.head_count", heads
    if architecture != "gpt2":
        kv = _first(config, "num_key_value_heads_per_layer", "num_kv_heads", "num_key_value_heads") or heads
        yield "attention.head_count_kv", 1 if config.get("new_decoder_architecture") is False else kv
        theta = _first(config, "rope_theta", "rotary_emb_base") or rope.get("rope_theta")
        yield "rope.freq_base", float(theta or 10000.0)
        yield "rope.dimension_count", int(_partial(architecture, rope) * (config.get("head_dim") or width // heads))
    if config.get("head_dim") is not None:
        yield "attention.key_length", config["head_dim"]
        yield "attention.value_length", config["head_dim"]
    eps = _first(config, "rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon")
    yield f"attention.layer_norm_{'' if architecture in LAYER_NORMS else 'rms_'}epsilon", float(eps or 1e-5)
    yield from _scaling(rope)
    yield from OWN.get(architecture, lambda _: {})(config).items()


def _partial(architecture: str, rope: Mapping[str, Any]) -> float:
    usual = {"gptneox": 0.25, "stablelm": 0.25, "phi2": 0.5, "nemotron": 0.5}.get(architecture, 1.0)
    return rope.get("partial_rotary_factor", usual)


def _scaling(rope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    kind = rope.get("rope_type", rope.get("type"))
    if kind in {"linear", "yarn"}:
        yield "rope.scaling.type", kind
        yield "rope.scaling.factor", float(rope["factor"])
    if kind == "yarn":
        yield "rope.scaling.original_context_length", rope["original_max_position_embeddings"]


def _minicpm(config: Config) -> dict[str, Any]:
    return {
        "embedding_scale": float(config["scale_emb"]),
        "residual_scale": config["scale_depth"] / config["num_hidden_layers"] ** 0.5,
        "logit_scale": config["hidden_size"] / config["dim_model_base"],
    }


OWN: Mapping[str, Callable[[Config], dict[str, Any]]] = {
    "command-r": lambda config: {"logit_scale": float(config["logit_scale"]), "rope.scaling.type": "none"},
    "gemma2": lambda config: {
        "attn_logit_softcapping": float(config["attn_logit_softcapping"]),
        "final_logit_softcapping": float(config["final_logit_softcapping"]),
        "attention.sliding_window": config["sliding_window"],
    },
    "gptneox": lambda config: {"use_parallel_residual": config.get("use_parallel_residual", True)},
    "stablelm": lambda config: {"use_parallel_residual": config["use_parallel_residual"]},
    "granite": lambda config: {
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
    },
    "minicpm": _minicpm,
    "phi3": lambda config: {
        "rope.scaling.original_context_length": config["original_max_position_embeddings"],
        "attention.sliding_window": config.get("sliding_window") or 0,
    },
}
"""Keys of a single architecture, by its name."""


# --------------------------------------------------------------------------------------------------------- tensors


def _named(architecture: str, config: Config, stored: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    depth = _first(config, "num_hidden_layers", "n_layer", "num_layers")
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], depth)
    for name, tensor in _changed(architecture, config, _stacked(stored)):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        yield found or name, tensor


def _stacked(stored: Mapping[str, Array]) -> dict[str, Array]:
    """Stack StableLM's per-head norms into one tensor."""
    out: dict[str, list[Array]] = {}
    for name in sorted(stored, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")]):
        whole = name[: name.index(".norms.")] + ".weight" if ".norms." in name else name
        out.setdefault(whole, []).append(stored[name])
    return {name: np.stack(parts) if len(parts) > 1 else parts[0] for name, parts in out.items()}


def _changed(architecture: str, config: Config, stored: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    heads = _first(config, "num_attention_heads", "n_head")
    per_layer = config.get("num_key_value_heads_per_layer")
    for name, given in stored.items():
        layer = next((int(part) for part in name.split(".") if part.isdigit()), 0)
        kv = per_layer[layer] if per_layer else _first(config, "num_kv_heads", "num_key_value_heads") or heads
        kv = 1 if config.get("new_decoder_architecture") is False else kv
        tensor = given
        if architecture in {"gemma", "gemma2", "nemotron"} and name.endswith("norm.weight"):
            tensor = given + 1
        if architecture == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            tensor = given.T
        if "query_key_value" in name:
            yield name, _ungrouped(given, heads, kv)
            continue
        if "wqkv" in name or "W_pack" in name:
            yield from _apart(layer, given, heads, kv, grouped="wqkv" in name)
            continue
        if architecture in NEIGHBOURS and ("q_proj" in name or "k_proj" in name):
            tensor = _permuted(given, heads if "q_proj" in name else kv)
        yield name, tensor


def _permuted(weights: Array, heads: int) -> Array:
    size = len(weights) // heads // 2
    return weights.reshape(heads, 2, size, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def _ungrouped(weights: Array, heads: int, kv: int) -> Array:
    """Reorder grouped rows to all queries, all keys, all values."""
    groups = weights.reshape(kv, heads // kv + 2, -1, *weights.shape[1:])
    parts = groups[:, :-2], groups[:, -2], groups[:, -1]
    return np.concatenate([part.reshape(-1, *weights.shape[1:]) for part in parts])


def _apart(layer: int, weights: Array, heads: int, kv: int, *, grouped: bool) -> Iterator[tuple[str, Array]]:
    """Split fused projections; yield them with permuted query and key rows."""
    whole = _ungrouped(weights, heads, kv) if grouped else weights
    size = len(whole) // (heads + 2 * kv)
    q, k, v = np.split(whole, [heads * size, (heads + kv) * size])
    yield f"blk.{layer}.attn_q.weight", _permuted(q, heads)
    yield f"blk.{layer}.attn_k.weight", _permuted(k, kv)
    yield f"blk.{layer}.attn_v.weight", v


# ------------------------------------------------------------------------------------------------------ tokenizers

SCHOOL = (
    "The tokenizer's rules aren't learned: they're given. "
    "We'll split 2024 words, 1,234,567 numbers and I'd say don't. "
    "def tokenize(text):\n    return text.split()  # spaces\n\n\tif x == 10: print('ten')\r\n "
    "한국어 문장을 나눕니다. 한국어는 재미있다. 我们把句子分开。我们学习中文。 Él comió ñandú über Straße naïve café "
    "HTTPResponse CamelCase snake_case http://example.org/a?b=c&d=e "
    "(one) [two] {three} <four> 'five' \"six\" -- ... !!! "
)
"""Text from which the small vocabulary is trained."""

CONTROLS, USERS = ("<|start|>", "<|end|>", "<s>"), ("<think>", "  ", "[INST]")

LETTERS = letters()

BYTES_LEFT_OUT = (0x04, 0x1D, 0xF1, 0xF2)
"""Bytes without a token, as in public vocabularies."""


def byte_level(merges: int = 300) -> dict[str, Any]:
    """Return a small byte-level BPE vocabulary, trained here so that it does not depend on library versions."""
    words = [[LETTERS[byte] for byte in word.encode()] for word in re.findall(r"\s?\S+|\s+", SCHOOL)]
    tokens = [LETTERS[byte] for byte in range(256) if byte not in BYTES_LEFT_OUT]
    pairs = []
    for _ in range(merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        pairs.append(f"{left} {right}")
        tokens.append(left + right)
        words = [_merged(word, left, right) for word in words]
    kinds = [1] * len(tokens) + [3] * len(CONTROLS) + [4] * len(USERS) + [5]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, *CONTROLS, *USERS, "[UNUSED_1]"],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": pairs,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
    }


def _merged(word: list[str], left: str, right: str) -> list[str]:
    out: list[str] = []
    for letter in word:
        if out and out[-1] == left and letter == right:
            out[-1] = left + right
        else:
            out.append(letter)
    return out


def sentencepiece(model_file: Path) -> dict[str, Any]:
    """Return the vocabulary of a `tokenizer.model` as the converter writes it, with some added tokens."""
    pieces = read_model(model_file).pieces
    added = (*CONTROLS[:2], *USERS)
    scores = [piece.score for piece in pieces] + [-1000.0] * len(added)
    kinds = [int(piece.kind) for piece in pieces] + [3, 3] + [4] * len(USERS)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*(piece.text for piece in pieces), *added],
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": next(
            at for at, piece in enumerate(pieces) if piece.kind is PieceKind.UNKNOWN
        ),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def with_tokenizer(file: Path, vocabulary: Mapping[str, Any], **keys: Any) -> Path:
    """Write a GGUF file of one layer with a tokenizer."""
    size, width = len(vocabulary["tokenizer.ggml.tokens"]), 8
    shapes = {
        "token_embd.weight": (size, width),
        "output_norm.weight": (width,),
        **{f"blk.0.{norm}_norm.weight": (width,) for norm in ("attn", "ffn")},
        **{f"blk.0.attn_{part}.weight": (width, width) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}.weight": (width, width) for part in ("gate", "up", "down")},
    }
    sizes = {
        "block_count": 1,
        "context_length": 512,
        "embedding_length": width,
        "feed_forward_length": width,
        "attention.head_count": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": size,
    }
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    named = {f"tokenizer.{key.replace('__', '.')}": value for key, value in keys.items()}
    return write(file, Made("llama", sizes, tensors, {**vocabulary, **named}))


TEXTS = (
    "The tokenizer's rules aren't learned: DON'T we'Ll I'D they'RE it's",
    "def tokenize(text):\n    return text.split()  # ok\n\n\n\tif x == 10:\r\n        print('ten')\n",
    "1 12 123 1234 12345 3.14159 1,234,567 ٣٤٥ ⅷ ²½ 0x1F",
    "한국어 문장을 나눕니다.\n한국어는  재미있다! ㅋㅋㅋ",
    "我们把句子分开。我们学习中文——好的！「引」、一二三",  # noqa: RUF001 - intended characters
    "👩‍👩‍👧‍👦 🏳️‍🌈 emoji 🙂🙂 🇰🇷",
    "  leading,   runs of    spaces \t\t tabs \u00a0\u2003\u3000 and trailing   ",
    "<|start|>user\nhi<|end|>\n<think> a<think></think> [INST]x[INST]<s><|end|>",
    "Él comió ñandú über Straße naïve CAFÉ e\u0301 a\u0300\u0301 ǅ ŉ ﬁ ſ Ωμέγα Привет שלום مرحبا",  # noqa: RUF001 - intended characters
    "HTTPResponse CamelCase snake_case http://example.org/a?b=c&d=e (one)[two]{three}<four>--...!!!",
    "\x00\x01\x04 \x1d\x7f \U000422e0a\U0007abcdb 𝔘𝔫𝔦 𐍈",  # noqa: RUF001 - intended characters
    "",
    " ",
    "\n",
    "a",
)
"""Texts compared with llama.cpp: English, code, Korean, Chinese, emoji, white space, special tokens, odd bytes."""

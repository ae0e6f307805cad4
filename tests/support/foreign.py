"""Real models stored in other people's formats, brought into the layout of a GPT-2 checkpoint."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from support.shared_data import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

SORT = DATA / "checkpoints" / "gpt-nano-sort"
SLM = DATA / "checkpoints" / "slm4096"


def packed_tensors(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a JSON file whose tensors are base64 of little-endian float32."""
    content = json.loads(file.read_text(encoding="utf-8"))
    config = content.pop("config")
    return config, {name: _unpacked(entry) for name, entry in content.items()}


def _unpacked(entry: Mapping[str, Any]) -> Tensor:
    raw = bytearray(base64.b64decode(entry["data"]))
    return torch.frombuffer(raw, dtype=torch.float32).reshape(entry["shape"])


def write_sort(directory: Path) -> Path:
    """gpt-nano-sort: GPT-2's names; matrices stored (out, in) where GPT-2 has (in, out); its masks come along."""
    config, tensors = packed_tensors(SORT / "gpt-nano-sort-model.json")
    return _write_gpt2(directory, config, tensors, activation="gelu_new", tied=False)


def write_slm(directory: Path) -> Path:
    """slm4096: nanoGPT's names for the same tensors, GELU with erf, and a head that is the embedding."""
    checkpoint = slm_checkpoint()
    tensors = {_gpt2_name(name): tensor for name, tensor in checkpoint["model_state"].items()}
    assert torch.equal(tensors.pop("lm_head.weight"), tensors["transformer.wte.weight"])
    return _write_gpt2(directory, checkpoint["config"], tensors, activation="gelu", tied=True)


def slm_checkpoint() -> dict[str, Any]:
    """slm4096 as it is stored; `weights_only` keeps the pickle from running code."""
    checkpoint: dict[str, Any] = torch.load(SLM / "ckpt.pt", weights_only=True)
    return checkpoint


def slm_corpus() -> Tensor:
    """The text that slm4096 learned by heart, as its token ids."""
    symbols = slm_checkpoint()["stoi"]
    return torch.tensor([symbols[character] for character in (SLM / "corpus.txt").read_text(encoding="utf-8")])


def _gpt2_name(name: str) -> str:
    moved = {"tok_emb.": "wte.", "pos_emb.": "wpe.", "blocks.": "h."}
    for theirs, ours in moved.items():
        name = name.replace(theirs, ours)
    name = name.replace(".attn.mask", ".attn.bias")
    return "lm_head.weight" if name == "head.weight" else f"transformer.{name}"


def _write_gpt2(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, activation: str, tied: bool
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    stored = {name: (tensor.T if _is_matrix(name) else tensor).contiguous() for name, tensor in tensors.items()}
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    stated = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config["vocab_size"],
        "n_embd": config["n_embd"],
        "n_layer": config["n_layer"],
        "n_head": config["n_head"],
        "n_positions": config["block_size"],
        "activation_function": activation,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    (directory / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    return directory


def _is_matrix(name: str) -> bool:
    return name.endswith("weight") and (".c_" in name)

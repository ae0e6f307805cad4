"""Make an Orion-shaped checkpoint of any size: sharded, bfloat16, small random weights.

    python benchmarks/synthetic.py OUT --gb 8 [--family llama]

Widths are Orion-14B's (d 5120, 40 heads, MLP 15360, 84608 tokens); the number of layers makes the size. Weights are a
block of N(0, 0.02) read from a different place for each row, so that a file is written as fast as the disk takes it;
gains are near 1, biases small. `--family llama` leaves the norms' biases out.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Shapes = Mapping[str, tuple[int, ...]]

WIDTH, HEADS, MLP, VOCABULARY = 5120, 40, 15360, 84608

SHARD = 2_000_000_000
"""Bytes of a file, about as Orion-14B's are."""

BLOCK = (1 << 24) + 17
"""Random numbers that weights are made of; 32 MB."""

CLASSES = {"orion": "OrionForCausalLM", "llama": "LlamaForCausalLM"}


def config(layers: int, family: str) -> dict[str, object]:
    """Return the content of config.json."""
    return {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def shapes(layers: int, family: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the order of the model."""
    norms = ("weight", "bias") if family == "orion" else ("weight",)
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for i in range(layers):
        at = f"model.layers.{i}."
        out |= {f"{at}input_layernorm.{kind}": (WIDTH,) for kind in norms}
        out |= {f"{at}self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        out |= {f"{at}post_attention_layernorm.{kind}": (WIDTH,) for kind in norms}
        out |= {f"{at}mlp.{name}_proj.weight": (MLP, WIDTH) for name in ("gate", "up")}
        out[f"{at}mlp.down_proj.weight"] = (WIDTH, MLP)
    out |= {f"model.norm.{kind}": (WIDTH,) for kind in norms}
    return {**out, "lm_head.weight": (VOCABULARY, WIDTH)}


def layers_for(nbytes: float, family: str) -> int:
    """The number of layers with which a checkpoint is nearest to a size."""
    none, one = (sum(2 * math.prod(s) for s in shapes(n, family).values()) for n in (0, 1))
    return max(1, round((nbytes - none) / (one - none)))


def make(out: Path, layers: int, family: str = "orion") -> int:
    """Write the checkpoint; returns the bytes of its tensors."""
    out.mkdir(parents=True)
    groups = list(_groups(shapes(layers, family)))
    source = _Source()
    weight_map: dict[str, str] = {}
    for i, group in enumerate(groups, 1):
        name = f"model-{i:05}-of-{len(groups):05}.safetensors"
        weight_map |= dict.fromkeys(group, name)
        with (out / name).open("wb") as file:
            _write(file, group, source)
    total = sum(2 * math.prod(shape) for group in groups for shape in group.values())
    listed = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(listed), encoding="utf-8")
    (out / "config.json").write_text(json.dumps(config(layers, family), indent=2), encoding="utf-8")
    return total


def _groups(wanted: Shapes) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors of each file, sorted by name as the format's own writer has them."""
    group: dict[str, tuple[int, ...]] = {}
    for name, shape in wanted.items():
        if group and sum(2 * math.prod(s) for s in (*group.values(), shape)) > SHARD:
            yield dict(sorted(group.items()))
            group = {}
        group[name] = shape
    yield dict(sorted(group.items()))


class _Source:
    """Bfloat16 numbers around 0 (weights, biases) or 1 (gains)."""

    def __init__(self) -> None:
        normal = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32) * 0.02
        self.weights, self.gains = _bfloat16(normal), _bfloat16(1 + normal[: 1 << 20])
        self.at = 0

    def take(self, name: str, count: int) -> Iterator[memoryview]:
        block = self.gains if "norm" in name and name.endswith("weight") else self.weights
        while count:
            self.at = (self.at + 7919 * 4001) % (len(block) - 1)
            part = block[self.at : self.at + count]
            yield part.data
            count -= len(part)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _write(file: IO[bytes], group: Shapes, source: _Source) -> None:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in group.items():
        start, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name, shape in group.items():
        for part in source.take(name, math.prod(shape)):
            file.write(part)


def main() -> None:
    """Make one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gb", type=float, default=8.0)
    parser.add_argument("--family", choices=CLASSES, default="orion")
    given = parser.parse_args()
    layers = layers_for(given.gb * 1e9, given.family)
    print(f"{given.out}: {layers} layers, {make(given.out, layers, given.family) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()

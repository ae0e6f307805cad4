"""Write a trained demo model as an Orion checkpoint directory: what `src/kept/demo/orion-2m/` holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.json_file import to_json
from kept.checkpoint.safetensors_writer import SHARD_BYTES, shards
from kept.checkpoint.staging import staging
from kept.families import FAMILIES
from kept.ir.program import Program
from kept.ir.tensors import InMemory

if TYPE_CHECKING:
    from kept.nn.model import Model

CARD = """---
license: apache-2.0
language: en
---

# demo-orion

A toy in Orion's architecture (LayerNorm with bias, rotary positions, gated MLP; {parameters:,} parameters in bfloat16),
trained from scratch for `kept demo` by `demo/train.py` on {tokens:,} tokens: public-domain books, TinyStories
(CDLA-Sharing-1.0) and Python under MIT, BSD and Apache licences, about two thirds English to one third Python, with
weight decay 0.1 on everything.

Held-out cross-entropy in nats per token: {held_out}.

It writes recognisable English and Python and knows nothing. It exists to be converted.
"""


def export(model: Model, tokenizer: Path, directory: Path) -> None:
    """Write config, weights in bfloat16, tokenizer, card and licence."""
    spec = model.spec
    weights = {n: InMemory(tuple(p.shape), "BF16", p.detach()) for n, p in model.named_parameters()}
    program, orion = Program(spec, weights), FAMILIES["orion"]
    shutil.rmtree(directory, ignore_errors=True)
    with staging(directory, {"demo": 1}) as stage:
        for part in shards(orion.write(program), SHARD_BYTES):
            stage.write_shard(part, lambda _: None)
        config = {**orion.write_config(spec, "BF16"), "initializer_range": 0.02}
        stage.write("config.json", to_json(config))
        stage.write("generation_config.json", to_json({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}))
        stage.write("tokenizer_config.json", to_json(tokenizer_config(spec.context)))
        stage.write("README.md", card(program.parameters).encode())
        stage.copy("tokenizer.model", tokenizer)
        stage.publish()


def tokenizer_config(context: int) -> dict[str, object]:
    """Return a config as Orion's own, with remote code: the conversion must not need it."""
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "auto_map": {"AutoTokenizer": ["tokenization_orion.OrionTokenizer", None]},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "model_max_length": context,
        "tokenizer_class": "OrionTokenizer",
    }


def card(parameters: int) -> str:
    """The model card, with the figures of the training log's last line."""
    last = json.loads((Path(__file__).parent / "training.jsonl").read_text().splitlines()[-1])
    held_out = ", ".join(f"{name} {loss:.2f}" for name, loss in last["held_out"].items())
    return CARD.format(parameters=parameters, tokens=last["tokens"], held_out=held_out)

"""Compare a model with its exact form with latent attention, both in their stock classes of transformers.

    python benchmarks/latent_exact.py MODEL TEXT --targets deepseek_v3,deepseek_v2,youtu,minicpm3

For each target and dtype, logits of the first `--tokens` tokens of TEXT: whether they are equal to the bit, the largest
difference relative to the largest logit, and KL in nats per token. In float32 also greedy continuations of four
prompts, padded on the left, with the classes' own caches, and the choices behind the first `--long` tokens of TEXT.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from transformers import AutoModelForCausalLM, AutoTokenizer

import kept


def main() -> None:
    """Print a JSON object for each target and dtype, and one for each comparison of choices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint directory or GGUF file")
    parser.add_argument("text", type=Path)
    parser.add_argument("--targets", default="deepseek_v3,deepseek_v2,youtu,minicpm3")
    parser.add_argument("--dtypes", default="float64,float32,bfloat16")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--new", type=int, default=200, help="tokens of a continuation")
    parser.add_argument("--long", type=int, default=6000, help="tokens of the long context")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        source = kept.convert(given.model, f"{scratch}/source", to="same", verify_tokens=0).path
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        text = given.text.read_text(encoding="utf-8")
        tokens = tokenizer(text[: 8 * given.long], return_tensors="pt").input_ids[:, : given.long]
        for target in given.targets.split(","):
            latent = kept.convert(given.model, f"{scratch}/{target}", to=target, verify_tokens=0).path
            for dtype in given.dtypes.split(","):
                pair = [loaded(path, dtype) for path in (source, latent)]
                print(
                    json.dumps({"target": target, "dtype": dtype, **same(pair, tokens[:, : given.tokens])}), flush=True
                )
            choices = [loaded(path, "float32") for path in (source, latent)]
            print(json.dumps({"target": target, **greedy(choices, tokenizer, text, given.new)}), flush=True)
            print(json.dumps({"target": target, **far(choices, tokens)}), flush=True)


def loaded(path: Path, dtype: str) -> Any:  # noqa: ANN401 - transformers has no types here
    """Return the stock class with eager attention, which rounds the same products in both classes."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="eager")


def same(pair: list[Any], tokens: torch.Tensor) -> dict[str, Any]:
    """Compare the logits of all positions."""
    one, other = (model(tokens).logits for model in pair)
    p, q = (F.log_softmax(x.double(), -1) for x in (one, other))
    return {
        "class": type(pair[1]).__name__,
        "equal to the bit": torch.equal(one, other),
        "largest difference": float((one - other).abs().max() / one.abs().max()),
        "kl": float((p.exp() * (p - q)).sum(-1).mean()),
    }


def greedy(pair: list[Any], tokenizer: Any, text: str, new: int) -> dict[str, Any]:  # noqa: ANN401 - the same
    """Compare greedy continuations of prompts of unequal length, padded on the left."""
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    prompts = [text[start : start + size] for start, size in ((0, 40), (1000, 90), (2000, 200), (3000, 400))]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    made = [model.generate(**batch, max_new_tokens=new, min_new_tokens=new, do_sample=False) for model in pair]
    return {"greedy": list(made[0].shape), "equal": torch.equal(*made)}


def far(pair: list[Any], tokens: torch.Tensor) -> dict[str, Any]:
    """Compare the logits of the last 64 positions of a long context."""
    for model in pair:
        model.set_attn_implementation("sdpa")
    one, other = (model(tokens, logits_to_keep=64).logits for model in pair)
    difference = float((one - other).abs().max() / one.abs().max())
    return {
        "context": tokens.shape[1],
        "same choices": torch.equal(one.argmax(-1), other.argmax(-1)),
        "difference": difference,
    }


if __name__ == "__main__":
    main()

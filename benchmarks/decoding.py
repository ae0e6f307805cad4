"""Decoding speed and cache size of a model with latent attention beside its source, in `kept.nn` and in transformers.

    python benchmarks/decoding.py MODEL --to deepseek_v3 --batches 1,8 --contexts 1024,8192,32768

MODEL is converted, and both are loaded in both executors. Caches are filled with random values as if CONTEXT tokens had
been read, since reading them takes minutes and does not change the speed. Each step decodes one token for each row,
logits included. Speeds are medians of rounds, in processor seconds on `--threads` threads.
`formula` is the size of the cache by `kept plan`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

import kept
from kept.ir.spec import Attention, LatentAttention
from kept.loaded import open_model
from kept.nn import Model
from kept.nn.state import KVCache, LatentCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Step = Callable[[], object]


def main() -> None:
    """Print a JSON object for each batch size and context."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint directory or GGUF file")
    parser.add_argument("--to", default="deepseek_v3")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--contexts", default="1024,8192,32768")
    parser.add_argument("--steps", type=int, default=4, help="tokens in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--most-bytes", type=float, default=4e9, help="size of the largest cache to measure")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        source = kept.convert(given.model, f"{scratch}/source", to="same", verify_tokens=0).path
        latent = kept.convert(given.model, f"{scratch}/latent", to=given.to, verify_tokens=0).path
        pairs = {"source": Pair(source, given.dtype), "latent": Pair(latent, given.dtype)}
        for batch in map(int, given.batches.split(",")):
            for context in map(int, given.contexts.split(",")):
                if pairs["source"].formula(batch, context) <= given.most_bytes:
                    print(json.dumps(row(pairs, batch, context, given)), flush=True)


class Pair:
    """One checkpoint in both executors."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.program = open_model(path).program
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.ours = Model.load(self.program, self.dtype)
        self.theirs: Any = AutoModelForCausalLM.from_pretrained(path, dtype=self.dtype)

    def formula(self, batch: int, context: int) -> int:
        """Return the bytes of the cache by the formula of `kept plan`."""
        parts = [part for layer in self.program.spec.layers if layer.mixer for part in layer.mixer.state()]
        return sum(part.per_token for part in parts) * batch * context * self.dtype.itemsize

    def our_step(self, batch: int, context: int) -> tuple[Step, Callable[[], int]]:
        """Return a step of `kept.nn` behind a full cache, and a function for the cache's bytes."""
        state, tokens = self.ours.empty_state(), torch.zeros(batch, 1, dtype=torch.long)
        state.position = context
        for mixer, layer in zip(state.layers, self.program.spec.layers, strict=True):
            if isinstance(mixer, LatentCache):
                assert isinstance(layer.mixer, LatentAttention)
                mixer.append(torch.randn(batch, 1, context, layer.mixer.cached_size, dtype=self.dtype))
            elif isinstance(mixer, KVCache):
                assert isinstance(layer.mixer, Attention)
                size = batch, layer.mixer.kv_heads, context, layer.mixer.head_dim
                mixer.append(torch.randn(size, dtype=self.dtype), torch.randn(size, dtype=self.dtype))
        return lambda: self.ours(tokens, state), lambda: sum(one.nbytes for one in state.layers if one)

    def their_step(self, batch: int, context: int) -> tuple[Step, Callable[[], int]]:
        """Return a step of transformers' class behind a full cache, and a function for the cache's bytes."""
        tokens = torch.zeros(batch, 1, dtype=torch.long)
        cache = self.theirs(tokens, use_cache=True).past_key_values
        for layer in cache.layers:
            layer.keys, layer.values = (
                torch.randn(batch, x.shape[1], context, x.shape[3], dtype=self.dtype)
                for x in (layer.keys, layer.values)
            )
        return (
            lambda: self.theirs(tokens, past_key_values=cache, use_cache=True),
            lambda: sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values)),
        )


def row(pairs: dict[str, Pair], batch: int, context: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return tokens a second and cache bytes of each model and executor, one cache in memory at a time."""
    made: dict[str, Any] = {"batch": batch, "context": context}
    for name, pair in pairs.items():
        made[f"{name} formula"] = pair.formula(batch, context)
        for executor, make in (("kept", pair.our_step), ("transformers", pair.their_step)):
            step, size = make(batch, context)
            step()
            made[f"{name} {executor} bytes"] = size()
            seconds = statistics.median(processor_seconds(step, given.steps) for _ in range(given.rounds))
            made[f"{name} {executor} tokens/s"] = round(batch / seconds, 2)
            del step, size
    return made


def processor_seconds(step: Step, count: int) -> float:
    """Return the processor seconds of one step, of `count` in a row."""
    begin = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - begin) / count


if __name__ == "__main__":
    main()

"""Train the small Orion that `kept demo` converts: its SentencePiece tokenizer, then the model, then the export.

    python demo/train.py --corpora ../shared/data/corpora --tokens 40_000_000

About two thirds English prose (public-domain books, TinyStories) and one third Python, 2.2 million parameters, AdamW
with weight decay on everything, as Orion was trained: decay is what keeps the residual stream's mean small.
Resumes from demo/work/ after an interruption. Writes demo/training.jsonl and src/kept/demo/orion-2m/.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sentencepiece
import torch
from export import export
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.ir.spec import Attention, Layer, Mlp, Norm, Rope, Spec, TokenIds
from kept.nn.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
WORK = HERE / "work"
LOG = HERE / "training.jsonl"
MODEL = HERE.parent / "src" / "kept" / "demo" / "orion-2m"
VOCABULARY, CONTEXT, BATCH, LENGTH = 2048, 512, 32, 256
PEAK_LR, WARMUP, DECAY = 4e-3, 200, 0.1
MIXTURE = {"books": 0.46, "stories": 0.20, "python": 0.34}


def spec() -> Spec:
    """Orion's architecture, small."""
    norm = Norm("layer", 1e-5, bias=True)
    layer = Layer(Attention(5, 5, 32, Rope(10_000.0, 32)), Mlp(448, "silu"), norm, norm)
    return Spec(VOCABULARY, 160, CONTEXT, (layer,) * 5, norm, tokens=TokenIds(1, 2, 0))


def texts(corpora: Path) -> dict[str, str]:
    """The corpus of each domain."""
    stories = json.loads((corpora / "tinystories/tinystories_1000.json").read_text())
    told = "\n\n".join(story if isinstance(story, str) else next(iter(story.values())) for story in stories)
    files = ["s-ajaykumar_tiny_stories.txt", "sachinrcz_tinystories.txt"]
    return {
        "books": (corpora / "english/standardebooks.txt").read_text(),
        "stories": told + "".join((corpora / "tinystories" / name).read_text() for name in files),
        "python": "".join(path.read_text() for path in sorted((corpora / "python").glob("*.txt"))),
    }


def tokenizer(corpora: Path) -> sentencepiece.SentencePieceProcessor:
    """Train the tokenizer once, as Orion's is made: BPE with byte fallback."""
    model = WORK / "tokenizer.model"
    if not model.exists():
        sample = WORK / "sample.txt"
        sample.write_text("".join(text[:4_000_000] for text in texts(corpora).values()))
        sentencepiece.SentencePieceTrainer.train(
            input=str(sample),
            model_prefix=str(WORK / "tokenizer"),
            model_type="bpe",
            vocab_size=VOCABULARY,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            input_sentence_size=200_000,
            shuffle_input_sentence=True,
            max_sentence_length=16_000,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def tokens(corpora: Path) -> dict[str, np.ndarray]:
    """Token ids of each domain, as uint16 on disk."""
    encoder = tokenizer(corpora)
    out = {}
    for name, text in texts(corpora).items():
        path = WORK / f"{name}.npy"
        if not path.exists():
            pieces = [text[i : i + 100_000] for i in range(0, len(text), 100_000)]
            ids = [token for piece in encoder.encode(pieces) for token in piece]
            np.save(path, np.array(ids, dtype=np.uint16))
        out[name] = np.load(path, mmap_mode="r")
    return out


def batches(data: dict[str, np.ndarray], step: int) -> torch.Tensor:
    """The batch of a step, (BATCH, LENGTH + 1): a function of the step alone, so that a resumed run sees the same."""
    random = np.random.default_rng(step)
    rows = []
    for name in random.choice(list(MIXTURE), size=BATCH, p=list(MIXTURE.values())):
        ids = data[name][: int(len(data[name]) * 0.98)]
        start = random.integers(0, len(ids) - LENGTH - 1)
        rows.append(ids[start : start + LENGTH + 1].astype(np.int64))
    return torch.from_numpy(np.stack(rows))


def loss_of(model: Model, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats per token."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(rows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def held_out(model: Model, data: dict[str, np.ndarray]) -> dict[str, float]:
    """Cross-entropy on the last 2 % of each domain."""
    out = {}
    for name, ids in data.items():
        tail = torch.from_numpy(ids[int(len(ids) * 0.98) :].astype(np.int64))
        rows = tail[: len(tail) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)[:64]
        out[name] = round(float(loss_of(model, rows)), 4)
    return out


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to a tenth."""
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return PEAK_LR * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def initialised() -> Model:
    """Normal(0, 0.02) matrices, with residual writers scaled down by depth."""
    model = Model(spec())
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            scale = 0.02 / math.sqrt(2 * model.spec.depth) if name.endswith(("o.weight", "down.weight")) else 0.02
            torch.nn.init.normal_(parameter, std=scale)
    return model


def train(corpora: Path, budget: int) -> Model:
    """Run or resume the training."""
    torch.manual_seed(0)
    data, model = tokens(corpora), initialised()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=DECAY, fused=True)
    steps, start = budget // (BATCH * LENGTH), 0
    if (WORK / "state.pt").exists():
        state = torch.load(WORK / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step, loss in run(model, optimizer, data, range(start, steps)):
        if step % 250 == 0 or step == steps:
            line = {
                "step": step,
                "tokens": step * BATCH * LENGTH,
                "loss": round(loss, 4),
                "held_out": held_out(model, data),
            }
            with LOG.open("a") as log:
                log.write(json.dumps({**line, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}) + "\n")
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, WORK / "next.pt"
            )
            (WORK / "next.pt").replace(WORK / "state.pt")
    return model


def run(
    model: Model, optimizer: torch.optim.Optimizer, data: dict[str, np.ndarray], steps: range
) -> Iterator[tuple[int, float]]:
    """The training steps; yields the number of steps done and the last loss."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps.stop)
        loss = loss_of(model, batches(data, step))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield step + 1, float(loss.detach())


def saved() -> Model:
    """Return the model in the last state of an interrupted or finished training."""
    model = initialised()
    model.load_state_dict(torch.load(WORK / "state.pt", weights_only=True)["model"])
    return model


def main() -> None:
    """Train, then write the checkpoint that the package ships."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="training texts; without them the last state is exported")
    parser.add_argument("--tokens", type=int, default=40_000_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    WORK.mkdir(exist_ok=True)
    model = saved() if arguments.corpora is None else train(arguments.corpora, arguments.tokens)
    export(model, WORK / "tokenizer.model", MODEL)


if __name__ == "__main__":
    main()

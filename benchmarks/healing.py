"""The experiment of the KEPT paper (arXiv 2605.25676) at a small size: what healing on one language does to another.

    python benchmarks/healing.py --source path/to/orion-9m --corpora path/to/corpora [--tokens N] [--only NAME ...]

A source of Orion's architecture becomes a plain, bias-free Llama by several ways, and each is healed by distilling the
source on English books alone, in rows of 128 tokens. At several numbers of tokens both models are measured on texts
that were never learned from: English, stories and Python in rows of 128, English and Python in rows of 512, four times
as long as what was seen. What learns is float32, the arithmetic bfloat16; measured is in float32. Every run has the
same texts in the same order. A run that was stopped goes on when the same command is given again (`--work`). Prints a
line for each measurement, writes all of them to benchmarks/results/, and draws docs/explanation/healing.svg
(`--draw RESULT` draws an existing result).
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import torch
from keeping import keep
from matplotlib import pyplot as plt

import kept
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.distillation.data.documents import TextSource
from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import BatchStream
from kept.distillation.data.self_samples import SamplingSettings, SelfSampler, sampled, teacher_sum
from kept.distillation.data.token_dataset import tokenise
from kept.distillation.loss.chunked_loss import Losses, chunked_loss
from kept.distillation.loss.objective import Objective
from kept.distillation.settings import HealSettings
from kept.distillation.settings_fields import SELF
from kept.distillation.train.backbone import Backbone
from kept.distillation.train.choose_trainable import trainable
from kept.distillation.train.end_to_end import EndToEnd
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.process_group import process_group
from kept.distillation.train.run_checkpoints import RunCheckpoints
from kept.distillation.train.trainer import Trainer
from kept.ir.slots import norms
from kept.ir.tensors import InMemory
from kept.loaded import open_model
from kept.nn import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kept.distillation.data.packing import Batch
    from kept.distillation.train.backbone import BackboneOutput
    from kept.distillation.train.process_group import Ranks
    from kept.ir.program import Program
    from kept.loaded import LoadedModel

SHORT, LONG, ROWS = 128, 512, 8
"""Tokens of a row: those learned from, and those of the long measurement; rows of a batch."""

MEASURED, HELD = 8_192, 24
"""Tokens of each held-out text, and documents of it that are held out."""

POINTS = (40_000, 80_000, 160_000, 300_000, 450_000)
"""Tokens after which a run is measured, beside its start and its end."""

TEXTS = {
    "english": "english/standardebooks.txt",
    "stories": "tinystories/s-ajaykumar_tiny_stories.txt",
    "python": "python/TheAlgorithms_Python.py.txt",
}


@dataclass(frozen=True)
class Run:
    """A start, what learns from which text, and how fast."""

    name: str
    start: str
    train: str = "norms"
    data: str = "english"
    rate: float = 3e-3
    tokens: int = 160_000


RUNS = (
    Run("exact with the block", "block", tokens=0),
    Run("carried", "carried", rate=1e-3),
    Run("opm", "opm"),
    Run("exact without the final bias", "dropped", rate=1e-3),
    Run("carried, everything learns", "carried", train="all", rate=3e-4),
    Run("carried, self", "carried", data=SELF, rate=1e-3),
    Run("carried, everything learns, self", "carried", train="all", data=SELF, rate=3e-4),
    Run("opm, self", "opm", data=SELF),
    Run("gain 1", "ones"),
    Run("random norms", "random"),
    Run("opm-centred", "opm-centred"),
    Run("calibrated", "calibrated"),
    Run("opm, everything learns", "opm", train="all", rate=1e-3, tokens=600_000),
)

CONVERSIONS: Mapping[str, Mapping[str, str]] = {
    "block": {},
    "dropped": {"final_bias": "drop"},
    "opm": {"norm": "opm"},
    "opm-centred": {"norm": "opm-centred"},
    "calibrated": {"norm": "calibrated"},
    "carried": {"norm": "carried"},
}


MEASURED_STARTS = {"calibrated", "carried"}
"""Those that read English for a start."""


class Remembering(Backbone):
    """A frozen model that runs each batch once: all runs see the same ones."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.seen: dict[bytes, BackboneOutput] = {}

    def forward(self, batch: Batch, use: Callable[[BackboneOutput], Any], *, keep_hidden: bool = False) -> Any:  # noqa: ANN401
        """Return the output of the model, without hidden states."""
        assert not keep_hidden, "only the head's input is remembered"
        key = sha256(batch.tokens_BT.numpy().tobytes() + batch.documents_BT.numpy().tobytes()).digest()
        if key not in self.seen:
            with torch.no_grad():
                self.seen[key] = super().forward(batch, lambda output: output)
        return use(self.seen[key])


class Learned(BatchStream):
    """Training batches. The trainer's own held-out set, which is not used here, is one batch."""

    def held_out(self, name: str | None = None, rows: int | None = None) -> list[Batch]:
        """A batch."""
        return super().held_out(name, rows or ROWS)


@dataclass
class Bench:
    """The source, the texts, and where things are kept while it runs."""

    source: LoadedModel
    corpora: Path
    work: Path
    ranks: Ranks
    held: dict[str, list[Batch]] = field(default_factory=dict)
    teacher: Backbone = field(init=False)
    exact: Backbone = field(init=False)
    reference: dict[str, dict[str, float]] = field(init=False)

    def __post_init__(self) -> None:
        """Load the source and measure it."""
        self.teacher = Remembering(load_backbone(self.source.program, torch.bfloat16, self.ranks).model)
        self.exact = Remembering(load_backbone(self.source.program, torch.float32, self.ranks).model)
        for name in TEXTS:
            self.held[name] = self.rows(name, SHORT)
        for name in ("english", "python"):
            self.held[f"{name}, long"] = self.rows(name, LONG)
        self.reference = self.measure(self.exact)

    def mixture(self, name: str) -> Mixture:
        """A text, and its documents that are held out."""
        tokens = tokenise(
            TextSource((self.corpora / TEXTS[name],)), TokenizerReader(self.source.path), self.work / "cache"
        )
        return Mixture({name: tokens}, None, HELD)

    def rows(self, name: str, length: int) -> list[Batch]:
        """Held-out rows of a length."""
        return BatchStream(self.mixture(name), ROWS, length).held_out(rows=MEASURED // length)

    def stream(self, data: str, tokens: int) -> BatchStream:
        """Return the training batches."""
        if data != SELF:
            return Learned(self.mixture(data), ROWS, SHORT)
        sampling = SamplingSettings(-(-tokens // LONG) + HELD, LONG)
        program = self.source.program
        speaker = SelfSampler(program.spec, torch.float32, lambda: Model.load(program, torch.float32))
        said = sampled(speaker, teacher_sum(self.source), sampling, self.work / "cache")
        return Learned(Mixture({SELF: said}, None, HELD), ROWS, SHORT)

    @torch.no_grad()
    def measure(self, student: Backbone) -> dict[str, dict[str, float]]:
        """KL from the source in nats per token, cross-entropy, agreement, of each held-out text."""
        return {name: mean(self.losses(student, batch) for batch in batches) for name, batches in self.held.items()}

    def losses(self, student: Backbone, batch: Batch) -> Losses:
        """Both models' losses on a batch."""
        targets, mask, both = batch.targets_BT.flatten(), batch.mask_BT.flatten(), Objective(kl=1, ce=1)
        teacher = self.exact.output(batch).head
        found: Losses = student(batch, lambda output: chunked_loss(output.head, teacher, targets, mask, both))
        return found

    def start(self, name: str) -> Program:
        """The converted model that a run begins with."""
        generator = torch.Generator().manual_seed(0)
        match name:
            case "ones":
                return with_gains(self.converted("opm"), torch.ones_like)
            case "random":
                return with_gains(self.converted("opm"), lambda gain: 2 * torch.rand(gain.shape, generator=generator))
            case _:
                return self.converted(name)

    def converted(self, name: str) -> Program:
        """A conversion of the source, written once."""
        out = self.work / f"start-{name}"
        if not out.is_dir():
            text = self.corpora / TEXTS["english"]
            given: dict[str, Any] = (
                {**CONVERSIONS[name], "text": str(text)} if name in MEASURED_STARTS else {**CONVERSIONS[name]}
            )
            kept.convert(self.source.path, out, to="llama", dtype="float32", verify_tokens=0, **given)
        return open_model(out).program

    def run(self, run: Run) -> list[dict[str, Any]]:
        """Heal, and measure at the points."""
        folder = self.work / run.name.replace(" ", "-").replace(",", "")
        folder.mkdir(exist_ok=True)
        program = self.start(run.start)
        learned = trainable(program, run.train)
        student = load_backbone(program, torch.bfloat16, self.ranks, learned)
        curve = Curve(
            self, student, load_backbone(program, torch.float32, self.ranks), run.tokens, folder / "curve.jsonl"
        )
        curve.at(0)
        if not run.tokens or curve.ended:
            return curve.points
        settings = HealSettings(
            run.name, str(folder), "source", data=(run.data,), train=run.train, tokens=run.tokens, batch_size=ROWS,
            sequence_length=SHORT, learning_rate=run.rate, dtype="bfloat16", eval_every=10**9, save_every=100,
        )  # fmt: skip
        states = RunCheckpoints(folder, self.ranks)
        stream = self.stream(run.data, run.tokens)
        task = EndToEnd(settings, self.ranks, student, self.teacher)
        Trainer(settings, self.ranks, task, stream, states, Metrics(folder, curve.see)).run()
        return curve.points


@dataclass
class Curve:
    """Measurements of a run, kept on disk as they are made."""

    bench: Bench
    student: Backbone
    exact: Backbone
    tokens: int
    file: Path
    points: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Go on after what is there."""
        if self.file.is_file():
            self.points = [json.loads(line) for line in self.file.read_text().splitlines()]

    @property
    def ended(self) -> bool:
        """Whether the last point is there."""
        step = ROWS * SHORT
        return bool(self.points[-1]["tokens"] == self.tokens // step * step)

    def see(self, line: Mapping[str, Any]) -> None:
        """Measure once a step has passed a point."""
        step = ROWS * SHORT
        last = line["tokens"] // step == self.tokens // step
        if line["kind"] == "step" and (last or any(p <= line["tokens"] < p + step for p in POINTS)):
            self.at(line["tokens"])

    def at(self, tokens: int) -> None:
        """Measure now."""
        if any(point["tokens"] == tokens for point in self.points):
            return
        with torch.no_grad():
            for name, learned in self.student.named_parameters():
                if learned.requires_grad:
                    self.exact.get_parameter(name).copy_(learned)
        found = self.bench.measure(self.exact)
        self.points.append({"tokens": tokens, **found})
        with self.file.open("a") as file:
            file.write(json.dumps(self.points[-1]) + "\n")
        words = (
            f"{name} KL {each['kl']:.5f} perplexity {100 * self.rise(name, each):+.2f} %"
            for name, each in found.items()
        )
        print(f"  {tokens:>9} tokens: {'; '.join(words)}", flush=True)

    def rise(self, name: str, found: Mapping[str, float]) -> float:
        """How much higher the perplexity is than the source's, relatively."""
        return math.expm1(found["ce"] - self.bench.reference[name]["ce"])


def with_gains(program: Program, made: Any) -> Program:  # noqa: ANN401 - a function of a tensor
    """A program whose norms have other gains."""
    names = [f"{name}.gain" for name, _, _ in norms(program.spec)]
    weights = {}
    for name in names:
        old = program.weights[name]
        weights[name] = InMemory(old.shape, old.dtype, made(old.value("float32")))
    return program.updated(program.spec, weights)


def mean(found: Iterable[Losses]) -> dict[str, float]:
    """Means over all tokens."""
    sums: dict[str, float] = {}
    tokens = 0.0
    for losses in found:
        tokens += losses.tokens
        for name, value in {**losses.means, "agreement": losses.agreement}.items():
            sums[name] = sums.get(name, 0.0) + float(value or 0.0) * losses.tokens
    return {name: value / tokens for name, value in sums.items()}


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Held-out KL against tokens, a panel for each text: a colour a start, dotted where all weights learn."""
    mpl.rcParams["svg.hashsalt"] = "kept"  # the same bytes each time
    shown = ("english", "python", "python, long")
    starts = [*dict.fromkeys(run["start"] for run in result["runs"])]
    figure, panels = plt.subplots(1, len(shown), figsize=(12, 4.2), sharey=True)
    for panel, text in zip(panels, shown, strict=True):
        for run in (run for run in result["runs"] if run["tokens"]):
            points = [(point["tokens"] + 1e4, point[text]["kl"]) for point in run["points"]]
            style = (":" if run["train"] == "all" else "-") + ("o" if run["data"] == SELF else "")
            colour = f"C{starts.index(run['start'])}"
            panel.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=run["name"])
        panel.set(xscale="log", yscale="log", title=text, xlabel="tokens + 10,000")
    panels[0].set_ylabel("KL from the source, nats per token")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--tokens", type=int, help="of every run, instead of its own number")
    parser.add_argument("--only", nargs="*", default=[run.name for run in RUNS])
    parser.add_argument("--work", type=Path, default=Path("healing-runs"))
    parser.add_argument("--draw", type=Path)
    chosen = parser.parse_args()
    picture = Path(__file__).parents[1] / "docs" / "explanation" / "healing.svg"
    if chosen.draw is not None:
        draw(json.loads(chosen.draw.read_text()), picture)
        return
    chosen.work.mkdir(exist_ok=True)
    with process_group("cpu") as all_ranks:
        bench = Bench(open_model(chosen.source), chosen.corpora, chosen.work, all_ranks)
        found = []
        for run in (run for run in RUNS if run.name in chosen.only):
            if chosen.tokens and run.tokens:
                run = replace(run, tokens=chosen.tokens)  # noqa: PLW2901
            print(run.name, flush=True)
            found.append({**asdict(run), "points": bench.run(run)})
    result = {
        "source": {name: {**each, "perplexity": math.exp(each["ce"])} for name, each in bench.reference.items()},
        "runs": found,
    }
    keep("healing", result)
    draw(result, picture)


if __name__ == "__main__":
    main()

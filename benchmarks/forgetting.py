r"""The experiment of LLaMA Pro (arXiv 2401.02415) at a small size: what is learned, and what is forgotten.

    python benchmarks/forgetting.py --source path/to/stories260k --new python=corpora/python/encode_httpx.py.txt \
        --old stories=corpora/tinystories/s-ajaykumar_tiny_stories.txt [--tokens 400K] [--seeds 0,1,2] [--only NAME ...]

A checkpoint is trained on a new domain with several methods, on the same tokens in the same order: full fine-tuning,
LoRA, and new blocks between, before or behind its own layers, of which only the new ones are trained. During and after
training it is measured on held-out documents of the new domain, and on texts of the old domain. Each method uses the
learning rate of `--rates` with which it learns most of the new domain, found with the first seed and a third of the
tokens. The same command continues a stopped run (`--work`). Results are written to benchmarks/results/;
`--draw RESULT ...` draws forgetting against learning of existing result files.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import torch
from keeping import keep
from matplotlib import pyplot as plt

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.distillation.data.documents import TextSource
from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import BatchStream
from kept.distillation.data.token_dataset import tokenise
from kept.distillation.loss.chunked_loss import Losses, chunked_loss
from kept.distillation.loss.objective import Objective
from kept.distillation.settings import HealSettings
from kept.distillation.train.choose_trainable import trainable
from kept.distillation.train.end_to_end import EndToEnd
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.process_group import process_group
from kept.distillation.train.run_checkpoints import RunCheckpoints
from kept.distillation.train.trainer import Trainer
from kept.loaded import LoadedModel, open_model
from kept.passes.expand_blocks import ExpandBlocks
from kept.setting_types import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from kept.distillation.data.packing import Batch
    from kept.distillation.train.backbone import Backbone, BackboneOutput
    from kept.distillation.train.process_group import Ranks

ROWS, LENGTH = 8, 128
"""Rows of a batch, and tokens of each."""

MEASURED, HELD = 32, 24
"""Rows that are measured of a domain, and documents of it that are held out."""

PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
"""Parts of a run after which it is measured, beside its start."""

PICTURE = Path(__file__).parents[1] / "docs" / "explanation" / "forgetting.svg"


@dataclass(frozen=True)
class Method:
    """Trainable parameters: some of the model's weights, or those of new blocks.

    `replay` is the part of the rows that are of the old domain; `kl` weighs the divergence from the source.
    """

    name: str
    train: str = "new"
    blocks: ExpandBlocks | None = None
    rank: int = 1
    replay: float = 0.0
    kl: float = 0.0


@dataclass(frozen=True)
class Run:
    """A method with its learning rate, number of tokens, and the seed of the order of the texts."""

    method: Method
    rate: float
    tokens: int
    seed: int

    @property
    def folder(self) -> str:
        """A name for its files."""
        return f"{self.method.name}-{self.rate:g}-{self.tokens}-{self.seed}".replace(" ", "-").replace(",", "")


def methods(opened: LoadedModel) -> list[Method]:
    """All that are compared; LoRA learns about as many parameters as one, and as four new blocks do."""
    depth = opened.program.spec.depth
    found = [Method("full fine-tuning", "all"), Method("full fine-tuning, 20 % replay", "all", replay=0.2)]
    found += [Method("full fine-tuning, 5 % replay", "all", replay=0.05)]
    found += [Method(f"LoRA, as +{blocks}", "lora", rank=_rank(opened, blocks)) for blocks in (1, 4)]
    found += [Method(f"+{blocks} block{'s' * (blocks > 1)}", blocks=between(depth, blocks)) for blocks in (1, 2, 4, 8)]
    found += [
        Method(f"+4 blocks, {part:.0%} replay".replace("%", " %"), blocks=between(depth, 4), replay=part)
        for part in (0.2, 0.05)
    ]
    found += [Method("+4 blocks, KL", blocks=between(depth, 4), kl=0.3)]
    return found + [Method(f"+4 as {place}", blocks=ExpandBlocks(4, 1, place)) for place in ("prefix", "suffix")]


def between(depth: int, blocks: int) -> ExpandBlocks:
    """New blocks between the old ones; where there are more of them than old ones, two on the topmost."""
    if blocks <= depth:
        return ExpandBlocks(blocks)
    numbers: list[int] = []
    at = 0
    for layer in range(depth):
        copies = 1 + (layer >= 2 * depth - blocks)
        numbers += range(at + 1, at + 1 + copies)
        at += 1 + copies
    return ExpandBlocks(at=tuple(numbers))


def _rank(opened: LoadedModel, blocks: int) -> int:
    """The rank with which LoRA has as many parameters as so many blocks, as nearly as can be."""
    wanted = trainable(*grown(opened, between(opened.program.spec.depth, blocks))).parameters
    return max(1, round(wanted / trainable(opened.program, "lora", lora_rank=1).parameters))


def grown(opened: LoadedModel, blocks: ExpandBlocks) -> tuple[Any, str, dict[str, Any]]:
    """The expanded program, what learns of it, and the part of its record that says which layers are new."""
    new = blocks.numbers(opened.program.spec.depth)
    return blocks.run(opened.program), "new", {"new_layers": [*new]}


@dataclass
class Bench:
    """The source, its texts, and where things are kept while it runs."""

    source: LoadedModel
    new: tuple[str, Path]
    old: dict[str, Path]
    work: Path
    ranks: Ranks
    held: dict[str, list[Batch]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the texts."""
        for name, path in (self.new, *self.old.items()):
            self.held[name] = BatchStream(self.mixture({name: path}), ROWS, LENGTH).held_out(rows=MEASURED)

    def mixture(self, paths: Mapping[str, Path], weights: Mapping[str, float] | None = None) -> Mixture:
        """Texts, and documents of each that are held out."""
        reader = TokenizerReader(self.source.path)
        found = {name: tokenise(TextSource((path,)), reader, self.work / "cache") for name, path in paths.items()}
        return Mixture(found, weights, HELD)

    def stream(self, method: Method, seed: int) -> BatchStream:
        """Return the training batches."""
        paths, weights = dict([self.new]), None
        if method.replay:
            paths |= self.old
            weights = {self.new[0]: 1 - method.replay, **{name: method.replay / len(self.old) for name in self.old}}
        return Few(self.mixture(paths, weights), ROWS, LENGTH, seed)

    @torch.no_grad()
    def measure(self, model: Backbone) -> dict[str, float]:
        """Cross-entropy of each domain, nats per token."""
        return {name: cost(model, batches) for name, batches in self.held.items()}

    def run(self, run: Run) -> dict[str, Any]:
        """Train, and measure during training."""
        folder = self.work / run.folder
        done = folder / "done.json"
        if done.is_file():
            return dict(json.loads(done.read_text()))
        folder.mkdir(parents=True, exist_ok=True)
        method, program = run.method, self.source.program
        if method.blocks is None:
            learned = trainable(program, method.train, lora_rank=method.rank, lora_alpha=2.0 * method.rank)
        else:
            program, word, record = grown(self.source, method.blocks)
            learned = trainable(program, word, record)
        teacher = "source" if method.kl else None
        settings = HealSettings(
            "source", str(folder), teacher, data=("new",), train=method.train, tokens=run.tokens, batch_size=ROWS,
            sequence_length=LENGTH, learning_rate=run.rate, warmup=0.06, weight_decay=0.1, kl=method.kl, ce=1.0,
            eval_every=10**9, save_every=10**9, seed=run.seed,
        )  # fmt: skip
        student = load_backbone(program, torch.float32, self.ranks, learned)
        curve = [{"tokens": 0, **self.measure(student)}]
        points = {max(1, round(part * settings.steps)) for part in PARTS}

        def see(line: Mapping[str, Any]) -> None:
            if line["kind"] == "step" and line["step"] in points:
                curve.append({"tokens": line["tokens"], **self.measure(student)})

        stream = self.stream(method, run.seed)
        beside = load_backbone(self.source.program, torch.float32, self.ranks) if method.kl else None
        task = EndToEnd(settings, self.ranks, student, beside, learned.rows)
        Trainer(settings, self.ranks, task, stream, RunCheckpoints(folder, self.ranks), Metrics(folder, see)).run()
        found = {"name": method.name, "rate": run.rate, "seed": run.seed, "learned": learned.parameters, "curve": curve}
        done.write_text(json.dumps(found))
        print(_line(found), flush=True)
        return found

    def tried(self, method: Method, rates: Sequence[str], tokens: int, seed: int) -> list[dict[str, Any]]:
        """A run with each rate, where there is a choice."""
        return [self.run(Run(method, float(rate), tokens, seed)) for rate in rates] if len(rates) > 1 else []

    def best(self, runs: Sequence[Mapping[str, Any]]) -> float:
        """The rate of the run that learned most of the new domain."""
        return float(min(runs, key=lambda one: one["curve"][-1][self.new[0]])["rate"])


class Few(BatchStream):
    """Training batches. The trainer's own held-out set, which is not used here, is one batch."""

    def held_out(self, name: str | None = None, rows: int | None = None) -> list[Batch]:
        """A batch."""
        return super().held_out(name, rows or ROWS)[:1]


def cost(model: Backbone, batches: Sequence[Batch]) -> float:
    """Mean cross-entropy of all tokens, nats."""
    nats = tokens = 0.0
    for batch in batches:
        targets, mask = batch.targets_BT.flatten(), batch.mask_BT.flatten()
        found: Losses = model(batch, partial(text_loss, targets, mask))
        nats += float(found.total) * found.tokens
        tokens += found.tokens
    return nats / tokens


def text_loss(targets: Tensor, mask: Tensor, output: BackboneOutput) -> Losses:
    """The cross-entropy alone."""
    return chunked_loss(output.head, None, targets, mask, Objective(kl=0.0, ce=1.0))


def _line(found: Mapping[str, Any]) -> str:
    first, last = found["curve"][0], found["curve"][-1]
    moved = ", ".join(f"{name} {last[name] - first[name]:+.3f}" for name in first if name != "tokens")
    return f"{found['name']:30} rate {found['rate']:g} seed {found['seed']}: {moved}"


def changes(one: Mapping[str, Any], new: str, old: Sequence[str]) -> list[tuple[float, float]]:
    """Nats per token that a run had learned of the new domain and forgotten of the old, at each measurement."""
    first = one["curve"][0]
    return [(first[new] - at[new], statistics.fmean(at[each] - first[each] for each in old)) for at in one["curve"]]


def summary(
    found: Sequence[Mapping[str, Any]], trials: Sequence[Mapping[str, Any]], new: str, old: Sequence[str]
) -> list[dict[str, Any]]:
    """Return each method's means over the seeds, and its least forgetting at the learning that every method reaches.

    The minimum is over all runs of the method, with any learning rate.
    """
    names = [*dict.fromkeys(one["name"] for one in found)]
    curves = {n: [changes(one, new, old) for one in (*found, *trials) if one["name"] == n] for n in names}
    common = min(max(learned for each in curves[name] for learned, _ in each) for name in names)
    rows = []
    for name in names:
        mine = [one for one in found if one["name"] == name]
        learned, forgot = zip(*(changes(one, new, old)[-1] for one in mine), strict=True)
        row = {"name": name, "parameters": mine[0]["learned"], "rate": mine[0]["rate"]}
        for key, values in (("learned", learned), ("forgot", forgot)):
            row |= {key: round(statistics.fmean(values), 4), f"{key}_spread": round(max(values) - min(values), 4)}
        least = min(forgot_at(each, common) for each in curves[name])
        rows.append({**row, "level": round(common, 4), "forgot_at_level": round(least, 4)})
    return rows


def forgot_at(points: Sequence[tuple[float, float]], level: float) -> float:
    """Return the forgetting at a given learning, interpolated between two measurements."""
    for (below, before), (above, after) in pairwise(points):
        if below < level <= above:
            return before + (after - before) * (level - below) / (above - below)
    return math.inf


def draw(results: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw a panel for each experiment: the mean curve of each method and its end points."""
    mpl.rcParams["svg.hashsalt"] = "kept"  # the same bytes each time
    rows = -(-len(results) // 2)
    figure, panels = plt.subplots(rows, min(2, len(results)), figsize=(11, 4.6 * rows + 1), squeeze=False)
    names = [*dict.fromkeys(one["name"] for result in results for one in result["runs"])]
    labels: dict[str, Any] = {}
    for panel, result in zip(panels.flat, results, strict=False):
        for name in dict.fromkeys(one["name"] for one in result["runs"]):
            mine = [changes(one, result["new"], result["old"]) for one in result["runs"] if one["name"] == name]
            kind = next(n for n, word in enumerate(("replay", "LoRA", " as ", "KL", "block", "full")) if word in name)
            colour, style = mpl.colormaps["tab20"](names.index(name)), ("--", ":", "-.", "--", "-", "-")[kind]
            mean = [tuple(map(statistics.fmean, zip(*at, strict=True))) for at in zip(*mine, strict=True)]
            panel.plot([x for _, x in mean], [y for y, _ in mean], style, color=colour, linewidth=1.2)
            xs, ys = [each[-1][1] for each in mine], [each[-1][0] for each in mine]
            (labels[name],) = panel.plot(xs, ys, "Ps^XoD"[kind], color=colour, markersize=6)
        panel.set(title=result["title"], xlabel="forgotten of the old, nats per token")
        panel.set_ylabel("learned of the new, nats per token")
        panel.grid(alpha=0.3)
    for panel in [*panels.flat][len(results) :]:
        panel.remove()
    figure.tight_layout(rect=(0, 0.9 / (4.6 * rows + 1), 1, 1))
    figure.legend([labels[name] for name in names], names, loc="lower center", ncols=5, fontsize=8)
    figure.savefig(file, metadata={"Date": None})


def experiment(chosen: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Run everything: the search for each method's learning rate, then all seeds. Returns a name and the results."""
    tokens, seeds, rates = count(chosen.tokens), chosen.seeds.split(","), chosen.rates.split(",")
    name, _, path = chosen.new.partition("=")
    old = {key: Path(text) for key, _, text in (each.partition("=") for each in chosen.old)}
    with process_group("cpu") as all_ranks:
        source = open_model(chosen.source)
        bench = Bench(source, (name, Path(path)), old, chosen.work / f"{source.name}-{name}", all_ranks)
        asked = [method for method in methods(source) if chosen.only is None or method.name in chosen.only]
        tried = {method: bench.tried(method, rates, tokens // 3, int(seeds[0])) for method in asked}
        best = {method: bench.best(each) if each else float(rates[0]) for method, each in tried.items()}
        found = [bench.run(Run(method, rate, tokens, int(seed))) for seed in seeds for method, rate in best.items()]
    trials = [one for each in tried.values() for one in each]
    return f"{source.name}-{name}", {
        "title": f"{source.name}: {', '.join(old)} → {name}",
        "new": name,
        "old": [*old],
        "tokens": tokens,
        "methods": [
            {**asdict(method), "blocks": None if method.blocks is None else asdict(method.blocks)} for method in asked
        ],
        "rows": summary(found, trials, name, [*old]),
        "runs": found,
        "trials": trials,
    }


def main() -> None:
    """Run and write, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--new", help="name=FILE")
    parser.add_argument("--old", action="append", help="name=FILE; may be given several times")
    parser.add_argument("--tokens", default="400K")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rates", default="1e-3,3e-3,1e-2")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--work", type=Path, default=Path("forgetting-runs"))
    parser.add_argument("--draw", type=Path, nargs="+")
    chosen = parser.parse_args()
    if chosen.draw is not None:
        draw([json.loads(file.read_text()) for file in chosen.draw], PICTURE)
        return
    name, found = experiment(chosen)
    keep(f"forgetting-{name}", found)


if __name__ == "__main__":
    main()

"""What a run will take, before it is begun: memory per rank, tokens a second, hours, money.

Bytes and operations are counted from the two specs: 2 operations a weight and token forward, as many again for each
gradient (Kaplan et al., arXiv 2001.08361, section 2.1), and what the loop keeps, layer by layer. What a machine reaches
of its peak is measured once and passed in (`cluster.py`). docs/explanation/measurements.md compares it with runs.

Shapes: D width, Q width of all query heads, K of all key-value heads, M of the MLP, V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kept.distillation.loss import chunk_size
from kept.distillation.train.trainable import GRADIENT, MASTER, MOMENTS
from kept.ir.slots import layer_slots, slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.distillation.cluster import Cluster
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.trainable import Trainable
    from kept.ir.spec import Layer, Spec

LOGIT_VALUES = 6
"""Values in float32 that the losses make of each logit of a block: both log-probabilities, p, q, d, the gradient."""

LOGIT_TRAFFIC, STREAM_TRAFFIC = 24, 3
"""How often a logit, and a value that a layer keeps, is read or written beside the products, by both gradients too."""

OPTIMISER_TRAFFIC = 11
"""How often AdamW and the clipping read or write a number of a weight."""

RUNTIME = 1e8
"""Bytes of torch's own: modules that are imported late, scratch memory of products. Devices' is in their margin."""

DOUBLINGS = 15
"""How often a number of ranks is doubled, to find one that is enough."""

AHEAD = 2
"""Layers that a rank of several holds whole: the one that computes and the one that is fetched meanwhile."""


@dataclass(frozen=True)
class RunShape:
    """A run, as far as its cost goes. A teacher that was cached beforehand is None."""

    student: Spec
    teacher: Spec | None
    learned: Trainable
    settings: HealSettings

    @property
    def bytes_of_value(self) -> int:
        """Of the arithmetic."""
        return 2 if self.settings.precision == "bfloat16" else 4

    def rows(self, ranks: int) -> int:
        """The most that one rank has of a batch."""
        return math.ceil(self.settings.batch_size / ranks)


@dataclass(frozen=True)
class CostEstimate:
    """What a run takes on a cluster. `memory` is of one rank, in bytes, by what it is for; `price` in the cluster's."""

    memory: Mapping[str, float]
    limit: float
    tokens_per_second: float
    hours: float
    price: float
    bound: str

    @property
    def bytes_per_rank(self) -> float:
        """The sum."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a rank has as much."""
        return self.bytes_per_rank <= self.limit


def cost(asked: RunShape, cluster: Cluster) -> CostEstimate:
    """Predict a run."""
    seconds = times(asked, cluster)
    settings = asked.settings
    # Weights are gathered while others are computed with: the longer of the two is waited for.
    part = max(seconds["products"] + seconds["values"], seconds["links"])
    step = part * settings.gradient_accumulation + seconds["optimiser"]
    rate = settings.tokens_a_step / step
    hours = settings.tokens / rate / 3600
    bound = max(seconds, key=seconds.__getitem__)
    return CostEstimate(
        memory(asked, cluster), cluster.memory, rate, hours, hours * cluster.price * cluster.ranks, bound
    )


def memory(asked: RunShape, cluster: Cluster) -> dict[str, float]:
    """Bytes of one rank, by what they are for."""
    width, ranks, learned = asked.bytes_of_value, cluster.ranks, asked.learned.held
    tokens = asked.rows(ranks) * asked.settings.sequence_length
    found = {
        "student": width * (parameters(asked.student) + thin(asked.student, asked.learned)) / ranks,
        "teacher": 0.0 if asked.teacher is None else width * parameters(asked.teacher) / ranks,
        "learning": learned * (MASTER - width + GRADIENT + MOMENTS) / ranks,
        "gathered": _gathered(asked) if ranks > 1 else 0.0,
        "activations": _activations(asked, tokens),
        "logits": _logits(asked, tokens, cluster),
    }
    if cluster.host:  # others keep these in the memory of their hosts
        written = (MASTER + MOMENTS) * learned / ranks + float(MASTER * learned)
        found["best so far"] = float(MASTER * learned)
        found["a checkpoint"] = max(0.0, written - found["activations"] - found["logits"])  # copied between two steps
        found["runtime"] = RUNTIME
    if width < MASTER and ranks == 1:
        found["rounded weights"] = float(width * learned)  # autocast keeps a copy of each float32 matrix
    return {name: value for name, value in found.items() if value}


def times(asked: RunShape, cluster: Cluster) -> dict[str, float]:
    """Seconds of one part of a batch on a rank, by what they are spent on; the optimiser's are of a step."""
    settings, width = asked.settings, asked.bytes_of_value
    tokens = asked.rows(cluster.ranks) * settings.sequence_length
    theirs = 0.0 if asked.teacher is None else forward_operations(asked.teacher, settings.sequence_length)
    counted = theirs + student_operations(
        asked.student, asked.learned, settings.sequence_length, again=settings.gradient_checkpointing
    )
    moved = sum(_moved(asked)) * (1 - 1 / cluster.ranks)
    return {
        "products": tokens * counted / cluster.rate(settings.precision),
        "values": tokens * _traffic(asked) / cluster.device.traffic,
        "links": width * moved / cluster.link,
        "optimiser": OPTIMISER_TRAFFIC * 4 * asked.learned.held / cluster.ranks / cluster.device.traffic,
    }


def parameters(spec: Spec) -> int:
    """All weights of a spec."""
    return sum(math.prod(slot.shape) for slot in slots(spec).values())


def thin(spec: Spec, learned: Trainable) -> int:
    """All weights of LoRA's thin matrices."""
    return sum(_thin(spec, learned).values())


def _thin(spec: Spec, learned: Trainable) -> dict[str, int]:
    """By the slot that they stand beside."""
    shapes, lora = slots(spec), learned.lora
    return {} if lora is None else {name: lora.rank * sum(shapes[name].shape) for name in lora.slots}


def forward_operations(spec: Spec, length: int) -> float:
    """Operations a token of one forward: two for each weight of a matrix, and attention over half of the row."""
    return sum(_layer_operations(layer, spec.width, length) for layer in spec.layers) + _head_operations(spec)


def student_operations(spec: Spec, learned: Trainable, length: int, *, again: bool = False) -> float:
    """Operations a token of a student: forward, the stream's gradient from the first layer that learns, the weights'.

    Attention's gradient makes the scores again: 2.5 times its forward (Dao, arXiv 2307.08691, section 4.1). `again`:
    layers are computed again in the backward. LoRA's thin matrices have a forward and both gradients of their own.
    """
    learning = spec.layers[first_learned(learned, spec.depth) :]
    back = sum(
        _layer_operations(layer, spec.width, length) + 1.5 * _score_operations(layer, spec.width, length)
        for layer in learning
    )
    twice = sum(_layer_operations(layer, spec.width, length) for layer in learning) if again else 0.0
    head = _head_operations(spec) if learning or any("final_norm" in name for name in learned.slots) else 0.0
    own = 2.0 * sum(
        math.prod(slot.shape)
        for name, slot in slots(spec).items()
        if name in set(learned.slots) and len(slot.shape) == 2 and name not in _TABLES
    )
    tied = 2.0 * spec.vocabulary * spec.width if spec.head.tied and "embedding.weight" in learned.slots else 0.0
    beside = (4 if again else 3) * 2.0 * thin(spec, learned)
    return forward_operations(spec, length) + back + twice + head + own + tied + beside


_TABLES = {"embedding.weight", "positions.weight"}


def first_learned(learned: Trainable, depth: int) -> int:
    """The first layer whose input or weights learn; `depth` where none does: layers before it have no backward."""
    if _TABLES & set(learned.slots):
        return 0
    layers = [int(name.split(".")[1]) for name in learned.reached if name.startswith("layers.")]
    return min(layers, default=depth)


def kept_values(layer: Layer, width: int, *, learns: bool) -> int:
    """Return the values per token that a layer keeps for its backward pass: inputs of its norms and products.

    Each branch's norm keeps the stream and its own output, a post-norm its input. Trainable matrices keep their inputs.
    """
    costs = [branch.op.cost(width, 1) for branch in layer.branches]
    norms = sum(2 + (branch.post_norm is not None) for branch in layer.branches)
    kept = norms * width + sum(cost.kept_values for cost in costs)
    return kept + (sum(cost.inputs for cost in costs) if learns else 0)


def _layer_operations(layer: Layer, width: int, length: int) -> float:
    return sum(branch.op.cost(width, length).total_flops for branch in layer.branches)


def _score_operations(layer: Layer, width: int, length: int) -> float:
    costs = (branch.op.cost(width, length) for branch in layer.branches)
    return sum(cost.score_flops * cost.pairs for cost in costs)


def _head_operations(spec: Spec) -> float:
    return 2.0 * spec.vocabulary * spec.width


def _activations(asked: RunShape, tokens: int) -> float:
    """What the student's backward needs, and what one layer computes with."""
    spec, width = asked.student, asked.bytes_of_value
    learns = {name.split(".")[1] for name in asked.learned.reached if name.startswith("layers.") and "norm" not in name}
    lora = asked.learned.lora
    rank, beside = (0, ()) if lora is None else (lora.rank, lora.slots)
    thin_ones = Counter(name.split(".")[1] for name in beside)  # what A puts out is kept for B
    kept = [
        kept_values(layer, spec.width, learns=str(at) in learns) + rank * thin_ones[str(at)]
        if at >= first_learned(asked.learned, spec.depth)
        else 0
        for at, layer in enumerate(spec.layers)
    ]
    if asked.settings.gradient_checkpointing:
        kept = [spec.width for one in kept if one] + [max(kept)]
    streams = spec.depth * spec.width * (2 if asked.settings.hidden else 0)
    computing = max(_peak_values(layer, spec.width) for layer in spec.layers)
    return float(tokens * width * (sum(kept) + streams + computing))


def _peak_values(layer: Layer, width: int) -> int:
    """Return the values per token that exist only while a layer runs."""
    return 4 * width + sum(branch.op.cost(width, 1).peak_values for branch in layer.branches)


def _logits(asked: RunShape, tokens: int, cluster: Cluster) -> float:
    """Both models' logits of a chunk, and what the losses make of a block of them."""
    vocabulary = asked.student.vocabulary
    chunk = float(min(chunk_size.chunk_tokens(vocabulary, host=cluster.host), tokens) * vocabulary)
    block = min(chunk, chunk_size.BLOCK) if cluster.host else chunk
    return (1 + (asked.teacher is not None)) * chunk * asked.bytes_of_value + LOGIT_VALUES * block * MASTER


def _gathered(asked: RunShape) -> float:
    """What a rank of several holds whole for a while: both ends of both models, two layers, gradients on their way."""
    models = [asked.student, *([asked.teacher] if asked.teacher else [])]
    ends = sum(parameters(spec) - sum(_layers(spec)) for spec in models)
    layer = max(max(_layers(spec)) for spec in models)
    shapes = slots(asked.student)
    learning = [(name, math.prod(shapes[name].shape)) for name in asked.learned.slots]
    groups: Counter[str] = Counter()
    for name, count in (*learning, *_thin(asked.student, asked.learned).items()):
        groups[name.split(".")[1] if name.startswith("layers.") else ""] += count
    width = asked.bytes_of_value
    return width * (ends + AHEAD * layer) + (width + GRADIENT) * max(groups.values(), default=0)


def _layers(spec: Spec) -> Iterator[int]:
    for layer in spec.layers:
        yield sum(math.prod(slot.shape) for _, slot in layer_slots(layer, spec.width))


def _moved(asked: RunShape) -> Iterator[float]:
    """Weights that each rank is sent for a part of a batch: both models', the student's again, and gradients."""
    yield 2.0 * (parameters(asked.student) + thin(asked.student, asked.learned))
    if asked.teacher is not None:
        yield parameters(asked.teacher)
    yield asked.learned.held * GRADIENT / asked.bytes_of_value


def _traffic(asked: RunShape) -> float:
    """Bytes a token that are read and written beside the products."""
    width = asked.bytes_of_value
    models = [asked.student, asked.student, *([asked.teacher] if asked.teacher else [])]  # forward and backward
    of_layers = sum(kept_values(layer, spec.width, learns=False) for spec in models for layer in spec.layers)
    return STREAM_TRAFFIC * width * of_layers + LOGIT_TRAFFIC * MASTER * asked.student.vocabulary


def ways_out(asked: RunShape, cluster: Cluster) -> Iterator[tuple[str, CostEstimate]]:
    """What takes less memory on a rank: each change by itself, all settings at once, and these on more ranks."""
    changes = _changes(asked, cluster)
    for words, change in changes.items():
        yield words, cost(_with(asked, change), cluster)
    if asked.teacher is not None:
        yield "a cached teacher", cost(replace(asked, teacher=None), cluster)
    least = _with(asked, {key: value for change in changes.values() for key, value in change.items()})
    if len(changes) > 1:
        yield " ".join(changes), cost(least, cluster)
    for doubled in range(1, DOUBLINGS):
        more = replace(cluster, ranks=cluster.ranks << doubled)
        found = cost(least, more)
        if found.fits:
            yield " ".join((*changes, f"on {more.ranks} ranks")), found
            return


def _changes(asked: RunShape, cluster: Cluster) -> dict[str, dict[str, object]]:
    """Settings that take less, by the options that say them."""
    settings, changes = asked.settings, {}  # type: HealSettings, dict[str, dict[str, object]]
    if not settings.gradient_checkpointing:
        changes["--gradient-checkpointing"] = {"gradient_checkpointing": True}
    if settings.precision == "float32":
        changes["--precision bfloat16"] = {"precision": "bfloat16"}
    parts = asked.rows(cluster.ranks)
    if parts > 1:
        batch, accumulate = math.ceil(settings.batch_size / parts), settings.gradient_accumulation * parts
        changes[f"--batch-size {batch} --gradient-accumulation {accumulate}"] = {
            "batch_size": batch,
            "gradient_accumulation": accumulate,
        }
    return changes


def _with(asked: RunShape, change: Mapping[str, object]) -> RunShape:
    return replace(asked, settings=replace(asked.settings, **change))  # type: ignore[arg-type] # keys of Settings

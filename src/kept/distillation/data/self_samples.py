"""`--data self`: no data at all, but texts that the teacher samples from itself, kept like tokens of any other kind.

A text begins with the teacher's own token for beginnings, if it has one, and one or two ids drawn from its vocabulary,
so that texts differ; the rest is sampled. (Data-free distillation from a model's own samples: arXiv 2305.17888.)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from pydantic import TypeAdapter

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.json_file import to_json
from kept.checkpoint.small_files import write_whole
from kept.distillation.data.directory_cache import cached, default_cache
from kept.distillation.data.token_dataset import FORMAT, TokenDataset, writing
from kept.errors import InputError
from kept.nn import generate
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kept.ir.spec import Spec
    from kept.loaded import LoadedModel
    from kept.nn import Model

BATCH = 16
"""Texts sampled in one batch. A constant, because a text's random numbers depend on its place in a batch."""

DRAWN = 2
"""Maximum number of random ids that a text begins with."""

TEXTS = TypeAdapter(list[list[int]])
"""The file of a batch of texts: the token ids of each."""

PREFIX = 1 + DRAWN
"""Maximum number of ids that a text begins with: beginning-of-sequence and random ids."""


@dataclass(frozen=True)
class SamplingSettings:
    """Number of texts, their maximum length in tokens, and sampling temperatures, which batches use in turn.

    Text i is the same for any count above i. `vocabulary` is how many ids the tokenizer has, where that is fewer than
    the model: an id beyond was never trained.
    """

    count: int
    length: int
    temperatures: tuple[float, ...] = (1.0,)
    seed: int = 0
    vocabulary: int | None = None


@dataclass(frozen=True)
class SelfSampler:
    """A teacher that samples texts. It is loaded only if the cache lacks some."""

    spec: Spec
    dtype: torch.dtype
    load: Callable[[], Model]


def teacher_sum(teacher: LoadedModel) -> str:
    """Return the sha256 of a teacher: of its config's and its weights' sums."""
    files = [teacher.path / "config.json", *sorted(teacher.files)]
    return sha256(to_json([[file.name, digest(file)] for file in files])).hexdigest()


def sampled(
    speaker: SelfSampler,
    teacher: str,
    sampling: SamplingSettings,
    cache: Path | None = None,
    reporter: Reporter | None = None,
) -> TokenDataset:
    """Return texts of a model, from the cache or sampled now. After an interruption, the same call continues.

    Of several processes that ask, one loads the model and the others wait for the cache. `teacher` is the model's sum.
    Raises InputError where the model cannot sample what is asked for.
    """
    _check(speaker.spec, sampling)
    watch = reporter or Silent()
    key = sha256(to_json([FORMAT, BATCH, teacher, str(speaker.dtype), asdict(sampling)])).hexdigest()

    def build(part: Path) -> None:
        model = speaker.load()
        batches = range(-(-sampling.count // BATCH))
        with watch.stage("sample", sampling.count, "texts") as advance, writing(part, ["self"]) as writer:
            for number in batches:
                for at, ids in enumerate(_piece(part, model, sampling, number)):
                    text = sha256(to_json(ids)).digest()
                    writer.add(ids, int.from_bytes(text[:8], "little"), 0, number * BATCH + at + 1)
                    advance(1)
        for number in batches:
            _file(part, number).unlink()

    return TokenDataset.open(cached(cache or default_cache(), key, build))


def _piece(part: Path, model: Model, sampling: SamplingSettings, number: int) -> list[list[int]]:
    """Return a batch of texts, from an interrupted run or sampled now; the last batch may be partial."""
    file = _file(part, number)
    texts = _read(file)
    if texts is None:
        texts = sample_batch(model, sampling, number)
        write_whole(file, json.dumps(texts).encode())
    return texts[: sampling.count - number * BATCH]


def _read(file: Path) -> list[list[int]] | None:
    """Return the token ids of a batch of texts; None if the file is missing or damaged."""
    try:
        texts = TEXTS.validate_json(file.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None
    return texts if len(texts) == BATCH else None


def _file(part: Path, number: int) -> Path:
    return part / f"batch-{number:06}.json"


def sample_batch(model: Model, sampling: SamplingSettings, number: int) -> list[list[int]]:
    """Return a batch of texts, which depends only on the model, the seed and the number of the batch."""
    seed = int.from_bytes(sha256(f"{sampling.seed} {number}".encode()).digest()[:7], "little")
    prompts = prefixes(model.spec, sampling, seed)
    room = sampling.length - max(map(len, prompts))
    temperature = sampling.temperatures[number % len(sampling.temperatures)]
    written = generate(model, prompts, room, temperature=temperature, seed=seed)
    end = model.spec.tokens.eos
    ends = [] if not isinstance(end, int) else [end]
    return [p + w + (ends if len(w) < room else []) for p, w in zip(prompts, written, strict=True)]


def prefixes(spec: Spec, sampling: SamplingSettings, seed: int) -> list[list[int]]:
    """Return the first tokens of the texts of a batch. Special ids (end, padding) are not drawn."""
    random = torch.Generator().manual_seed(seed)
    ids = _drawable(spec, sampling.vocabulary)
    begin = [] if spec.tokens.bos is None else [spec.tokens.bos]
    sizes = torch.randint(1, DRAWN + 1, (BATCH,), generator=random)
    drawn = ids[torch.randint(len(ids), (BATCH, DRAWN), generator=random)]
    return [begin + row[:size].tolist() for row, size in zip(drawn, sizes, strict=True)]


def _drawable(spec: Spec, vocabulary: int | None) -> torch.Tensor:
    kept = torch.ones(min(vocabulary or spec.vocabulary, spec.vocabulary), dtype=torch.bool)
    ends = spec.tokens.eos if isinstance(spec.tokens.eos, tuple) else (spec.tokens.eos,)
    for special in (spec.tokens.bos, spec.tokens.pad, *ends):
        if special is not None and special < len(kept):
            kept[special] = False
    return kept.nonzero()[:, 0]


def _check(spec: Spec, sampling: SamplingSettings) -> None:
    if sampling.count < 1 or not sampling.temperatures:
        raise InputError(
            f"self: {sampling.count} texts at {len(sampling.temperatures)} temperatures; ask for one or more"
        )
    if min(sampling.temperatures) <= 0:
        raise InputError(f"self: temperature {min(sampling.temperatures)} samples nothing; it must be above 0")
    if not PREFIX < sampling.length <= spec.context:
        raise InputError(f"self: {sampling.length} tokens a text; ask for {PREFIX + 1} to the model's {spec.context}")

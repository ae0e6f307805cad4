"""The inputs of a healing run: batches of texts or of the teacher's samples, and the sums that identify them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.chat_template import Template, today
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.commands.teacher_student import check_widths
from kept.distillation import teacher_cache
from kept.distillation.data.conversations import ConversationRenderer
from kept.distillation.data.documents import TextSource, named_paths
from kept.distillation.data.mixture import Mixture, parse_weights
from kept.distillation.data.packed_rows import PackedRowStream, by_digest
from kept.distillation.data.packing import BatchStream, check_ids, check_stream
from kept.distillation.data.self_samples import SamplingSettings, SelfSampler, sampled, teacher_sum
from kept.distillation.data.token_dataset import tokenise
from kept.distillation.settings_fields import SELF
from kept.distillation.teacher_cache import data_sum
from kept.distillation.train.process_group import local_device
from kept.errors import InputError, Overflow
from kept.ir.stream_map import IDENTITY
from kept.nn import Model
from kept.output.layer_pairing import paired, stream_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kept.commands.teacher_student import TeacherStudent
    from kept.distillation.data.packing import Batch
    from kept.distillation.data.token_dataset import TokenDataset
    from kept.distillation.settings import HealSettings
    from kept.ir.stream_map import StreamMap
    from kept.loaded import LoadedModel
    from kept.reporting import Reporter

EVAL_TOKENS = 1 << 16
"""Maximum number of evaluation tokens per text. The documents with the smallest digests are used: a random sample."""


def layer_pairs(settings: HealSettings, pair: TeacherStudent) -> Sequence[tuple[int, int]]:
    """Return (teacher layer, student layer) pairs for the hidden-state loss; empty without that loss.

    Raises InputError if the widths differ or the layers cannot be paired.
    """
    if not settings.hidden:
        return ()
    assert pair.teacher is not None, "settings require one"
    check_widths(pair.student, pair.teacher)
    return paired(pair.student, pair.teacher)


def hidden_state_map(settings: HealSettings, pair: TeacherStudent) -> StreamMap:
    """Return the map from the teacher's hidden states to the student's; the identity without the hidden-state loss."""
    return stream_map(pair.student, pair.teacher) if settings.hidden and pair.teacher is not None else IDENTITY


def batch_stream(settings: HealSettings, pair: TeacherStudent, reporter: Reporter) -> BatchStream:
    """Return the training batches: rows of a new document order in each epoch, or the rows of a teacher cache."""
    mixture = data_mixture(settings, pair, reporter)
    if pair.cache is None:
        stream = BatchStream(mixture, settings.batch_size, settings.sequence_length, settings.seed)
    else:
        pair.cache.require(cache_description(settings, pair, mixture))
        stream = PackedRowStream(pair.cache.packed_rows(mixture), settings.batch_size, settings.seed)
    check_stream(stream, pair.vocabulary, pair.student.program.spec.context)
    return stream


@dataclass(frozen=True)
class EvalTexts:
    """Texts that are only measured: their tokens, and batches to measure on, by name."""

    sources: Mapping[str, TokenDataset]
    batches: Mapping[str, Sequence[Batch]]

    @classmethod
    def of(cls, settings: HealSettings, pair: TeacherStudent, stream: BatchStream, reporter: Reporter) -> EvalTexts:
        """Tokenise the texts of the settings. Raises InputError for a text that cannot be read."""
        sources = _tokenised(settings, pair.student, reporter, "eval_data")
        for name, tokens in sources.items():
            check_ids(name, tokens, pair.vocabulary)
        rows, length = max(1, EVAL_TOKENS // settings.sequence_length), settings.sequence_length
        return cls(sources, {name: stream.packed(by_digest(tokens, length), rows) for name, tokens in sources.items()})


def data_mixture(settings: HealSettings, pair: TeacherStudent, reporter: Reporter) -> Mixture:
    """Return the sources to train and to measure on: texts, or samples of the teacher."""
    weights = None if settings.mixture is None else parse_weights(settings.mixture)
    if settings.data == (SELF,):
        sources = _self_samples(settings, pair.teacher, reporter)
    else:
        sources = _tokenised(settings, pair.student, reporter, "data")
    return Mixture(sources, weights, settings.hold_out)


def cache_description(settings: HealSettings, pair: TeacherStudent, mixture: Mixture) -> dict[str, Any]:
    """Return what a teacher cache must have been made of to serve a run. Without a teacher its sum is left out."""
    return {
        "format": teacher_cache.FORMAT,
        "vocabulary": pair.vocabulary,
        "sequence_length": settings.sequence_length,
        "hold_out": settings.hold_out,
        "temperature": settings.temperature,
        "data": data_sum(mixture.sources),
        **({} if pair.teacher is None else {"teacher": teacher_sum(pair.teacher)}),
    }


def input_paths(settings: HealSettings) -> dict[str, Path]:
    """Return the files and directories that a run reads besides its models, by description."""
    data = {} if settings.data == (SELF,) else named_paths(settings.data)
    found = {
        f"the data {name}": path for name, path in {**data, **named_paths(settings.eval_data, "eval_data")}.items()
    }
    return found if settings.teacher_cache is None else {**found, "the cache": Path(settings.teacher_cache)}


def input_sums(settings: HealSettings, pair: TeacherStudent, mixture: Mixture, eval_data: EvalTexts) -> dict[str, str]:
    """Return the sha256 of each input, under the setting that names it. Reads all weights."""
    models = {"student": pair.student, "teacher": pair.teacher}
    sums = {name: teacher_sum(model) for name, model in models.items() if model is not None}
    if settings.teacher_cache is not None:
        sums["teacher_cache"] = digest(Path(settings.teacher_cache) / teacher_cache.ABOUT)
    if settings.eval_data:
        sums["eval_data"] = data_sum(eval_data.sources)
    return {**sums, "data": data_sum(mixture.sources)}


def compute_dtype(settings: HealSettings) -> torch.dtype:
    """Return the dtype of the arithmetic."""
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype


def chat_date(settings: HealSettings, pair: TeacherStudent, previous: Mapping[str, Any]) -> str | None:
    """Return the date given to the student's chat template (YYYY-MM-DD); None if the template does not read it.

    Sources in this order: `settings`; `previous`, the settings of the run to resume; the teacher cache; today.
    """
    renderer = _conversation_renderer(settings, pair.student)
    if renderer is None or not renderer.template.dated:
        return None
    cached = None if pair.cache is None else pair.cache.about.get("chat_date")
    found: str = settings.chat_date or previous.get("chat_date") or cached or today()
    return found


@contextmanager
def blamed_teacher(teacher: LoadedModel) -> Iterator[None]:
    """Add the teacher's path to the message of an Overflow."""
    try:
        yield
    except Overflow as error:
        raise Overflow(f"{teacher.path}: {error}") from None


def _tokenised(settings: HealSettings, student: LoadedModel, reporter: Reporter, key: str) -> dict[str, TokenDataset]:
    """Return the tokens of the files that a setting names, by name."""
    reader, renderer = TokenizerReader(student.path), _conversation_renderer(settings, student)
    return {
        name: tokenise(TextSource((path,), settings.document, conversations=renderer), reader, reporter=reporter)
        for name, path in named_paths(getattr(settings, key), key).items()
    }


def _conversation_renderer(settings: HealSettings, student: LoadedModel) -> ConversationRenderer | None:
    """Return a renderer if the data are conversations. Raises InputError if there is no chat template."""
    if not settings.chat:
        return None
    given = None if settings.chat_template is None else Path(settings.chat_template)
    template = Template.of(student.path, given, date=settings.chat_date or "")
    if template is None:
        raise InputError(f"{student.path}: has no chat template; give one with --chat-template FILE")
    return ConversationRenderer(template)


def _self_samples(settings: HealSettings, teacher: LoadedModel | None, reporter: Reporter) -> dict[str, TokenDataset]:
    """Return as many tokens as the settings ask for, sampled by the teacher."""
    assert teacher is not None, "settings require one"
    program, dtype = teacher.program, compute_dtype(settings)
    length = min(settings.sequence_length, program.spec.context)
    texts = max(2, -(-settings.tokens // length))  # one of them is held out
    reader = TokenizerReader(teacher.path)
    vocabulary = None if reader.file is None else len(reader.tokenizer.vocabulary)
    sampling = SamplingSettings(texts, length, settings.sampled_at, settings.seed, vocabulary)
    sampler = SelfSampler(program.spec, dtype, lambda: Model.load(program, dtype).to(local_device(settings.device)))
    with blamed_teacher(teacher):
        return {SELF: sampled(sampler, teacher_sum(teacher), sampling, reporter=reporter)}

"""What a student learns from: a teacher that reads the same tokens, and texts or the teacher's own samples in rows."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.distillation.settings import SELF, HealSettings
from kept.errors import InputError, Overflow
from kept.loaded import LoadedModel, open_model
from kept.output.layer_pairing import paired

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from kept.distillation.data.conversations import ConversationRenderer
    from kept.distillation.data.mixture import Mixture
    from kept.distillation.data.packing import Batch, BatchStream
    from kept.distillation.data.token_dataset import TokenDataset
    from kept.distillation.teacher_cache import TeacherCache
    from kept.reporting import Reporter

WATCHED = 1 << 16
"""Tokens of each watched text that are measured: those of the documents with the smallest digests, a sample."""


@dataclass(frozen=True)
class TeacherStudent:
    """Who learns from whom: a teacher that runs, what a cache says of one, or the texts alone."""

    student: LoadedModel
    teacher: LoadedModel | None
    cache: TeacherCache | None = None

    @classmethod
    def open(cls, settings: HealSettings) -> TeacherStudent:
        """The models that settings name. Raises InputError where they do not belong together."""
        from kept.distillation.teacher_cache import TeacherCache

        student = open_model(settings.student)
        teacher = None if settings.teacher is None else open_model(settings.teacher)
        cache = None if settings.teacher_cache is None else TeacherCache.open(Path(settings.teacher_cache))
        check_pair(student, teacher, settings.sequence_length)
        return cls(student, teacher, cache)


def check_pair(student: LoadedModel, teacher: LoadedModel | None, length: int) -> None:
    """Raise InputError where rows are longer than a model's positions, or the two read other tokens."""
    from kept.checkpoint.tokenizer_reader import TokenizerReader
    from kept.verification.text import difference

    check_sizes(student, teacher, length)
    if teacher is None:
        return
    found = difference(TokenizerReader(student.path), TokenizerReader(teacher.path))
    if found is not None:
        raise InputError(
            f"{student.path}: has another tokenizer than its teacher {teacher.path}: {found}; "
            "name the model that it was converted from"
        )


def check_sizes(student: LoadedModel, teacher: LoadedModel | None, length: int) -> None:
    """The part of it that configs tell: positions, and how many tokens there are."""
    for opened in filter(None, (student, teacher)):
        if length > opened.program.spec.context:
            raise InputError(
                f"sequence_length: is {length}, {opened.path} has {opened.program.spec.context} positions; "
                "make rows shorter"
            )
    if teacher is None:
        return
    sizes = student.program.spec.vocabulary, teacher.program.spec.vocabulary
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{student.path}: has {sizes[0]} tokens, its teacher {teacher.path} has {sizes[1]}; "
            "name a model with the same tokens: the one that it was converted from, or itself before it learned"
        )


def check_widths(student: LoadedModel, teacher: LoadedModel) -> None:
    """Raise InputError if the residual streams of student and teacher differ in width."""
    widths = student.program.spec.width, teacher.program.spec.width
    if widths[0] != widths[1]:
        raise InputError(
            f"hidden: the stream of {student.path} is {widths[0]} wide, that of its teacher {teacher.path} "
            f"{widths[1]}; leave out --hidden"
        )


def pairs_of(settings: HealSettings, pair: TeacherStudent) -> Sequence[tuple[int, int]]:
    """Return (teacher layer, student layer) pairs for the hidden-state loss; empty without that loss.

    Raises InputError if the widths differ or the layers cannot be paired.
    """
    if not settings.hidden:
        return ()
    assert pair.teacher is not None, "settings ask for one"
    check_widths(pair.student, pair.teacher)
    return paired(pair.student, pair.teacher)


def stream(settings: HealSettings, pair: TeacherStudent, reporter: Reporter) -> BatchStream:
    """The tokens to learn from, in rows that are cut anew each epoch, or in those that a teacher's cache has."""
    from kept.distillation.data.packed_rows import PackedRowStream
    from kept.distillation.data.packing import BatchStream, check

    found = mixture(settings, pair, reporter)
    if pair.cache is None:
        made = BatchStream(found, settings.batch_size, settings.sequence_length, settings.seed)
    else:
        pair.cache.require(named(settings, pair, found))
        made = PackedRowStream(pair.cache.cut(found), settings.batch_size, settings.seed)
    check(made, pair.student.program.spec.vocabulary, pair.student.program.spec.context)
    return made


@dataclass(frozen=True)
class WatchedTexts:
    """Texts that are only measured: their tokens, and rows of them to measure on."""

    sources: Mapping[str, TokenDataset]
    rows: Mapping[str, Sequence[Batch]]

    @classmethod
    def of(cls, settings: HealSettings, pair: TeacherStudent, texts: BatchStream, reporter: Reporter) -> WatchedTexts:
        """The settings' texts. Raises InputError for what cannot be read."""
        from kept.distillation.data.packed_rows import in_order
        from kept.distillation.data.packing import check_ids

        sources = _texts(settings, pair.student, reporter, "watch")
        for name, tokens in sources.items():
            check_ids(name, tokens, pair.student.program.spec.vocabulary)
        most = max(1, WATCHED // settings.sequence_length)
        return cls(
            sources,
            {name: texts.packed(in_order(tokens, settings.sequence_length), most) for name, tokens in sources.items()},
        )


def mixture(settings: HealSettings, pair: TeacherStudent, reporter: Reporter) -> Mixture:
    """The tokens to learn from and to measure on: texts, or what the teacher says."""
    from kept.distillation.data.mixture import Mixture, parse_weights

    weights = None if settings.mixture is None else parse_weights(settings.mixture)
    drawn = settings.data == (SELF,)
    sources = _sampled(settings, pair.teacher, reporter) if drawn else _texts(settings, pair.student, reporter, "data")
    return Mixture(sources, weights, settings.hold_out)


def named(settings: HealSettings, pair: TeacherStudent, found: Mixture) -> dict[str, Any]:
    """What a teacher's cache must have been made of for a run; without the teacher itself that is not compared."""
    from kept.distillation.data.self_samples import teacher_sum
    from kept.distillation.teacher_cache import FORMAT, data_sum

    return {
        "format": FORMAT,
        "vocabulary": pair.student.program.spec.vocabulary,
        "sequence_length": settings.sequence_length,
        "hold_out": settings.hold_out,
        "temperature": settings.temperature,
        "data": data_sum(found.sources),
        **({} if pair.teacher is None else {"teacher": teacher_sum(pair.teacher)}),
    }


def read_paths(settings: HealSettings) -> dict[str, Path]:
    """Return the files and directories that a run reads besides its models, by description."""
    from kept.distillation.data.documents import named_paths

    data = {} if settings.data == (SELF,) else named_paths(settings.data)
    found = {f"the data {name}": path for name, path in {**data, **named_paths(settings.watch, "watch")}.items()}
    return found if settings.teacher_cache is None else {**found, "the cache": Path(settings.teacher_cache)}


def sums(settings: HealSettings, pair: TeacherStudent, found: Mixture, watched: WatchedTexts) -> dict[str, str]:
    """The sha256 of each thing that a run reads, under the setting that names it. It reads all weights."""
    from kept.distillation.data.self_samples import teacher_sum
    from kept.distillation.teacher_cache import ABOUT, data_sum

    models = {"student": pair.student, "teacher": pair.teacher}
    made = {name: teacher_sum(opened) for name, opened in models.items() if opened is not None}
    if settings.teacher_cache is not None:
        made["teacher_cache"] = digest(Path(settings.teacher_cache) / ABOUT)
    if settings.watch:
        made["watch"] = data_sum(watched.sources)
    return {**made, "data": data_sum(found.sources)}


def dtype_of(settings: HealSettings) -> torch.dtype:
    """That of the arithmetic."""
    import torch

    made: torch.dtype = getattr(torch, settings.precision)
    return made


def _texts(settings: HealSettings, student: LoadedModel, reporter: Reporter, key: str) -> dict[str, TokenDataset]:
    """The tokens of what a setting names."""
    from kept.checkpoint.tokenizer_reader import TokenizerReader
    from kept.distillation.data.documents import TextSource, named_paths
    from kept.distillation.data.token_dataset import tokenise

    reader, talks = TokenizerReader(student.path), _talks(settings, student)
    return {
        name: tokenise(TextSource((path,), settings.document, talks=talks), reader, reporter=reporter)
        for name, path in named_paths(getattr(settings, key), key).items()
    }


def _talks(settings: HealSettings, student: LoadedModel) -> ConversationRenderer | None:
    """How conversations are read. Raises InputError where the student has no chat template and none is given."""
    from kept.checkpoint.chat_template import Template
    from kept.distillation.data.conversations import ConversationRenderer

    if not settings.chat:
        return None
    given = None if settings.chat_template is None else Path(settings.chat_template)
    template = Template.of(student.path, given, date=settings.chat_date or "")
    if template is None:
        raise InputError(f"{student.path}: has no chat template; give one with --chat-template FILE")
    return ConversationRenderer(template)


def chat_date(settings: HealSettings, pair: TeacherStudent, before: Mapping[str, Any]) -> str | None:
    """Return the date given to the student's chat template (YYYY-MM-DD); None if the template does not read it.

    Sources in this order: `settings`; `before`, the settings of the run that is continued; the teacher cache; today.
    """
    from kept.checkpoint.chat_template import today

    talks = _talks(settings, pair.student)
    if talks is None or not talks.template.dated:
        return None
    cached = None if pair.cache is None else pair.cache.about.get("chat_date")
    found: str = settings.chat_date or before.get("chat_date") or cached or today()
    return found


@contextmanager
def blamed_teacher(teacher: LoadedModel) -> Iterator[None]:
    """Add the teacher's path to the message of an Overflow."""
    try:
        yield
    except Overflow as error:
        raise Overflow(f"{teacher.path}: {error}") from None


def _sampled(settings: HealSettings, teacher: LoadedModel | None, reporter: Reporter) -> dict[str, TokenDataset]:
    from kept.checkpoint.tokenizer_reader import TokenizerReader
    from kept.distillation.data.self_samples import SamplingSettings, SelfSampler, sampled, teacher_sum
    from kept.distillation.train.parallel import own_device
    from kept.nn import Model

    assert teacher is not None, "settings ask for one"
    program, dtype = teacher.program, dtype_of(settings)
    length = min(settings.sequence_length, program.spec.context)
    texts = max(2, -(-settings.tokens // length))  # one of them is held out
    reader = TokenizerReader(teacher.path)
    size = None if reader.file is None else len(reader.tokenizer.vocabulary)
    sampling = SamplingSettings(texts, length, settings.sampled_at, settings.seed, size)
    speaker = SelfSampler(program.spec, dtype, lambda: Model.load(program, dtype).to(own_device()))
    with blamed_teacher(teacher):
        return {SELF: sampled(speaker, teacher_sum(teacher), sampling, reporter=reporter)}

"""The record of a healing in words and figures, for the model card and the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from kept.distillation.settings_fields import SELF
from kept.formatting import finite_median, parameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.output.healed_record import GroupRecord, HealedRecord, MeasurementRecord, TeacherKlRecord

LOSSES = {
    "kl": "KL from the teacher, nats per token",
    "reverse_kl": "reverse KL, nats per token",
    "jsd": "Jensen-Shannon divergence, nats per token",
    "ce": "cross-entropy with the text, nats per token",
    "hidden": "error of the streams",
    "branch": "relative error of what a branch adds",
    "stream": "relative error of the stream after a branch",
    "loss": "weighted sum of the losses",
}
"""The losses in words, the most important first."""

BY_TEXT = {
    "sources": "cross-entropy with {}, nats per token",
    "eval_data": "cross-entropy with {} (evaluation data), nats per token",
}
"""Losses of single texts, in words."""

LISTED_KL = "KL of the listed tokens from the teacher, nats per token"
"""The KL in words if the teacher is read from a cache."""

NOTHING_BETTER = "No step made the held-out loss less than it was: the weights are those that it began with."

Row = tuple[str, str, str]


def main_loss(losses: Mapping[str, float]) -> str:
    """Return the name of the most telling loss: the divergence from the teacher if measured, else what is minimised."""
    return next((key for key in ("kl", "jsd", "reverse_kl") if key in losses), minimised(losses))


def minimised(losses: Mapping[str, float]) -> str:
    """Return the name of the loss that is minimised: the only term of the weighted sum, or `loss` for the sum."""
    single = (key for key in LOSSES if key != "loss" and key in losses)
    return next((key for key in single if math.isclose(losses[key], losses["loss"], rel_tol=1e-6)), "loss")


def displayed_losses(losses: Mapping[str, float]) -> list[str]:
    """Return the names of the computed losses, the most important first; the sum only if it has several terms."""
    return [key for key in LOSSES if key in losses and (key != "loss" or minimised(losses) == "loss")]


def unmeasured(healed: HealedRecord) -> str:
    """Return why nothing was measured against a teacher, and what is known instead."""
    if healed.has_teacher:
        return "Nothing: no teacher of its width was at hand."
    return f"It was trained on texts alone, so there is no teacher to compare it with.{_cross_entropy(healed)}"


def _cross_entropy(healed: HealedRecord) -> str:
    """Return a sentence on the held-out cross-entropy; empty if it was not computed."""
    group = healed.only_group
    if group is None or "ce" not in group.first.losses:
        return ""
    before, after = (one.losses["ce"] for one in (group.first, group.best))
    return f" Its held-out cross-entropy was {before:.4g} nats per token before, and is {after:.4g}."


def result_in_words(healed: HealedRecord) -> str:
    """Return sentences on what healing changed."""
    whole = "" if healed.kl is None else f"{kl_in_words(healed.kl)} "
    return f"{whole}{_losses_in_words(healed)}"


def _losses_in_words(healed: HealedRecord) -> str:
    if healed.kl is None and not healed.trained_tokens:
        return NOTHING_BETTER
    group = healed.only_group
    if group is None:
        return _groups_in_words(healed)
    key = main_loss(group.first.losses)
    name, before, after = LOSSES[key].partition(",")[0], group.first.losses[key], group.best.losses[key]
    return f"Healing on {group.best.tokens:,} tokens took the held-out {name} from {before:.3g} to {after:.3g}."


def _groups_in_words(healed: HealedRecord) -> str:
    """Return a sentence on the losses of several groups: the median, the worst, and how many diverged."""
    before, after = median_losses(healed)
    name, worst = worst_groups(healed)[0]
    stopped = sum(one.stopped is not None for one in healed.groups.values())
    diverged = f"; {stopped} stopped, since the loss diverged" if stopped else ""
    return (
        f"Healing on {healed.trained_tokens:,} tokens took the median held-out loss of {len(healed.groups)} groups of "
        f"parameters from {before:.3g} to {after:.3g}; the worst is {worst.best.loss:.3g} ({name}){diverged}."
    )


def kl_in_words(kl: TeacherKlRecord) -> str:
    """Return a sentence on the KL of the whole student before and after."""
    return (
        f"The KL of the whole model from the teacher was {kl.before:.3g} nats per token before and is {kl.after:.3g}, "
        f"on {kl.tokens:,} held-out tokens."
    )


def median_losses(healed: HealedRecord) -> tuple[float, float]:
    """Return the medians over groups of the loss that was minimised: before healing, and at the best measurements."""
    groups = healed.groups.values()
    first, best = (finite_median(losses) for losses in zip(*((g.first.loss, g.best.loss) for g in groups), strict=True))
    return first, best


def worst_groups(healed: HealedRecord) -> list[tuple[str, GroupRecord]]:
    """Return the groups by name, those with the highest best loss first."""
    return sorted(healed.groups.items(), key=lambda named: -_or_inf(named[1].best.loss))


def _or_inf(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def settings_in_words(healed: HealedRecord) -> str:
    """Return sentences on the trained parameters, the teacher, the data and the settings that decide the result."""
    settings = healed.settings
    rows = settings.batch_size * settings.gradient_accumulation
    way = ", each branch alone" if settings.layerwise else ""
    how = f"learning rate {settings.learning_rate:g}, {settings.lr_schedule}; {settings.dtype}"
    what = f"{settings.train}{_parameters(healed)}{_teacher(healed)}"
    return (
        f"Trained{way}: {what}; on: {data_names(healed)}{_corpus(healed)}."
        f"{_conversations(healed)} Rows of {settings.sequence_length:,} tokens, {rows} a step; {how}."
    )


def data_names(healed: HealedRecord) -> str:
    """Return the names of the training texts."""
    names = (one.partition("=") for one in healed.settings.data)
    texts = ", ".join(name if path else Path(name).stem for name, _, path in names)
    return "texts that the teacher wrote" if texts == SELF else texts


def held_out(healed: HealedRecord) -> tuple[Row, tuple[Row, ...]]:
    """Return the head and the rows of a table: each held-out loss before healing, and at its best measurement."""
    group = healed.only_group
    if group is None:
        return ("loss of the group", "before", "at its best"), tuple(map(_group_row, worst_groups(healed)))
    first, best = group.first, group.best
    words = {**LOSSES, **({"kl": LISTED_KL} if healed.teacher_cache else {})}
    rows = [
        (words[key], f"{first.losses[key]:.4g}", f"{best.losses[key]:.4g}") for key in displayed_losses(first.losses)
    ]
    if "ce" in first.losses:
        rows.append(("perplexity of the text", _perplexity(first.losses["ce"]), _perplexity(best.losses["ce"])))
    rows += _by_text(first, best)
    if not math.isnan(first.agreement):
        before, after = (f"{100 * one.agreement:.2f} %" for one in (first, best))
        rows.append(("top-1 agreement", before, after))
    return ("what", "before", f"after {best.tokens:,} tokens"), tuple(rows)


def _group_row(named: tuple[str, GroupRecord]) -> Row:
    name, group = named
    words = name if group.stopped is None else f"{name}, stopped"
    return words, f"{group.first.loss:.4g}", f"{group.best.loss:.4g}"


def _by_text(first: MeasurementRecord, best: MeasurementRecord) -> Iterator[Row]:
    """Yield the cross-entropy of each source if there are several, and of each evaluation text."""
    for key, words in BY_TEXT.items():
        before, after = (getattr(one, key) for one in (first, best))
        for name in before if key == "eval_data" or len(before) > 1 else ():
            values = (found.get(name, {}).get("ce", math.nan) for found in (before, after))
            was, now = (f"{value:.4g}" for value in values)
            yield words.format(name), was, now


def _parameters(healed: HealedRecord) -> str:
    return f", {parameters(healed.trained.parameters)} of {parameters(healed.trained.of)} parameters"


def _teacher(healed: HealedRecord) -> str:
    teacher = healed.settings.teacher or healed.settings.teacher_cache
    return "" if teacher is None else f", from {teacher}"


def _corpus(healed: HealedRecord) -> str:
    """Return the number of tokens to learn from and of those that were held out."""
    sources = healed.sources.values()
    tokens, held = sum(one.tokens for one in sources), sum(one.held_out_tokens for one in sources)
    return f" (of {tokens:,} tokens; {held:,} more are held out)"


def _conversations(healed: HealedRecord) -> str:
    trained = any("answer_tokens" in one.model_fields_set for one in healed.sources.values())
    return " Of conversations, only the assistant's messages are trained on." if trained else ""


def _perplexity(nats: float) -> str:
    return f"{math.exp(nats):.4g}" if nats < 700 else "beyond what a float holds"

"""What a record says of healing, in words and figures: for the model card, and for the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.distillation.settings import SELF
from kept.formatting import parameters
from kept.json_values import listed, mapped, number, text, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Record = Mapping[str, Any]

LOSSES = {
    "kl": "KL from the teacher, nats a token",
    "reverse_kl": "reverse KL, nats a token",
    "jsd": "Jensen-Shannon divergence, nats a token",
    "ce": "cross-entropy with the text, nats a token",
    "hidden": "error of the streams",
    "loss": "weighted sum of the losses",
}
"""The losses in words, the one that counts most first."""

BY_TEXT = {
    "sources": "cross-entropy with {}, nats a token",
    "watched": "cross-entropy with {}, which is only watched, nats a token",
}
"""The texts of a run by themselves, in words."""

LISTED_KL = "KL of the listed tokens from the teacher, nats a token"
"""What the first is where the teacher is read from a cache."""

NOTHING_BETTER = "No step made the held-out loss less than it was: the weights are those that it began with."


def measurements(healed: Record) -> list[dict[str, Any]]:
    """The held-out measurements. Raises ValueError where there is none."""
    found = [mapped(one) for one in listed(healed["held_out"])]
    if not found:
        raise ValueError("it has no measurement")
    return found


def ends(measured: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first measurement, and the best, which is what was written."""
    known = [one for one in measured if not math.isnan(number(one["loss"]))] or [measured[0]]
    return measured[0], min(known, key=lambda one: number(one["loss"]))


def main_loss(one: Record) -> str:
    """The loss that says most: the divergence from the teacher where it was measured, else what is minimised."""
    return next((key for key in ("kl", "jsd", "reverse_kl") if key in one), minimised(one))


def minimised(one: Record) -> str:
    """What is minimised: the loss that is all of the weighted sum, or the sum."""
    total = number(one["loss"])
    single = (key for key in LOSSES if key != "loss" and key in one)
    return next((key for key in single if math.isclose(number(one[key]), total, rel_tol=1e-6)), "loss")


def shown(one: Record) -> list[str]:
    """The losses that there are, the one that counts most first; the sum only where it is one of several."""
    return [key for key in LOSSES if key in one and (key != "loss" or minimised(one) == "loss")]


def from_texts(healed: Record) -> bool:
    """Whether it learned from texts alone, without a teacher or what one had said."""
    settings = mapped(healed["settings"])
    return not (settings["teacher"] or settings.get("teacher_cache"))


def unmeasured(healed: Record) -> str:
    """Why nothing was measured against a teacher, and what is known instead."""
    if not from_texts(healed):
        return "Nothing: no teacher of its width was at hand."
    return f"It learned from texts alone, so that there is no teacher to compare it with.{_nats(healed)}"


def _nats(healed: Record) -> str:
    """The held-out cross-entropy, in a sentence."""
    first, best = ends(measurements(healed))
    if "ce" not in first:
        return ""
    before, after = number(first["ce"]), number(best["ce"])
    return f" Its held-out cross-entropy was {before:.4g} nats a token before, and is {after:.4g}."


def in_words(healed: Record) -> str:
    """What healing did, in a sentence."""
    first, best = ends(measurements(healed))
    if not whole(best["tokens"]):
        return NOTHING_BETTER
    key = main_loss(first)
    name, before, after = LOSSES[key].partition(",")[0], number(first[key]), number(best[key])
    return f"Healing on {whole(best['tokens']):,} tokens took the held-out {name} from {before:.3g} to {after:.3g}."


def asked(healed: Record) -> str:
    """What learned, from whom and on what, and the settings that decide the result."""
    settings = mapped(healed["settings"])
    rows = whole(settings["batch_size"]) * whole(settings["gradient_accumulation"])
    how = f"rate {number(settings['learning_rate']):g}, {text(settings['lr_schedule'])}; {text(settings['precision'])}"
    what = f"{text(settings['train'])}{_parameters(healed)}{_whose(settings)}"
    return (
        f"What learned: {what}; on: {heard(healed)}{_corpus(healed)}.{_talks(healed)} "
        f"Rows of {whole(settings['sequence_length']):,} tokens, {rows} a step; {how}."
    )


def heard(healed: Record) -> str:
    """What it learned from, by name."""
    names = (text(one).partition("=") for one in listed(healed["settings"]["data"]))
    texts = ", ".join(name if path else Path(name).stem for name, _, path in names)
    return "texts that the teacher wrote" if texts == SELF else texts


def held_out(healed: Record) -> tuple[tuple[str, str, str], tuple[tuple[str, str, str], ...]]:
    """A table's head and rows: each loss before, and as it was at best."""
    first, best = ends(measurements(healed))
    words = {**LOSSES, **({"kl": LISTED_KL} if healed.get("teacher_cache") else {})}
    rows = [(words[key], f"{number(first[key]):.4g}", f"{number(best[key]):.4g}") for key in shown(first)]
    if "ce" in first:
        rows.append(("perplexity of the text", _perplexity(number(first["ce"])), _perplexity(number(best["ce"]))))
    rows += _by_text(first, best)
    if not math.isnan(number(first["agreement"])):
        before, after = (f"{100 * number(one['agreement']):.2f} %" for one in (first, best))
        rows.append(("same first choice", before, after))
    return ("what", "before", f"after {whole(best['tokens']):,} tokens"), tuple(rows)


def _by_text(first: Record, best: Record) -> Iterator[tuple[str, str, str]]:
    """The cross-entropy of each source, where there are several, and of each text that is only watched."""
    for key, words in BY_TEXT.items():
        before, after = (mapped(one.get(key, {})) for one in (first, best))
        for name in before if key == "watched" or len(before) > 1 else ():
            was, came = (number(mapped(found[name])["ce"]) for found in (before, after))
            yield words.format(name), f"{was:.4g}", f"{came:.4g}"


def _parameters(healed: Record) -> str:
    """How many learned, of how many."""
    learned, of = (parameters(whole(healed["learned"][key])) for key in ("parameters", "of"))
    return f", {learned} of {of} parameters"


def _whose(settings: Record) -> str:
    teacher = settings["teacher"] or settings.get("teacher_cache")
    return "" if teacher is None else f", from {text(teacher)}"


def _corpus(healed: Record) -> str:
    """How much text there was to learn from, and how much of it was held out."""
    sources = [mapped(one) for one in mapped(healed["sources"]).values()]
    had, held = (sum(whole(one[key]) for one in sources) for key in ("tokens", "held_out_tokens"))
    return f" (of {had:,} tokens; {held:,} more are held out)"


def _talks(healed: Record) -> str:
    """What is learned of conversations."""
    sources = mapped(healed["sources"]).values()
    talks = any("answer_tokens" in mapped(one) for one in sources)
    return " Of conversations only what the assistant says is learned." if talks else ""


def _perplexity(nats: float) -> str:
    return f"{math.exp(nats):.4g}" if nats < 700 else "beyond what a float holds"

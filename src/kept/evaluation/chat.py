"""The chat template of a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.checkpoint.chat_template import Template
from kept.errors import InputError

if TYPE_CHECKING:
    from kept.evaluation.subject import Subject


def template_of(subject: Subject, date: str | None = None) -> Template:
    """Return the model's chat template. Raises InputError if it has none."""
    template = Template.of(subject.loaded.path, tokens=special_texts(subject), date=date or "")
    if template is None:
        raise InputError(f"{subject.loaded.path}: has no chat template; leave out the option that asks for it")
    return template


def special_texts(subject: Subject) -> dict[str, str]:
    """Return the texts of the BOS and EOS tokens by the names that templates use, if the tokenizer has them."""
    tokens = subject.spec.tokens
    names = (
        {} if subject.reader.file is None else {at: name for name, at in subject.reader.tokenizer.vocabulary.items()}
    )
    ids = {"bos_token": tokens.bos, "eos_token": tokens.eos[0] if isinstance(tokens.eos, tuple) else tokens.eos}
    return {name: names.get(at, "") for name, at in ids.items() if at is not None and names}

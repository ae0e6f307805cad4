"""Check the model classes that a config names: in `architectures`, and in `auto_map` for remote code.

transformers chooses the class by `model_type` and runs remote code only with `trust_remote_code`. A config that names
a class other than the family's is refused, because that class may compute something else or be no causal language
model. Remote code for a class of the family's own name is reported in a note, because kept never runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.config import Config

OTHER_MODELS = {
    "SequenceClassification": "a sequence classifier",
    "TokenClassification": "a token classifier",
    "QuestionAnswering": "an extractive question-answering model",
    "MultipleChoice": "a multiple-choice model",
    "RewardModel": "a reward model",
    "DoubleHeadsModel": "a language model with a second head",
    "ConditionalGeneration": "a multimodal or encoder-decoder model",
}
"""Kinds of models other than causal language models, by the suffix of the class name."""

AUTO = "AutoModelForCausalLM"
"""The key of `auto_map` that names the remote code of a causal language model."""


class HasClasses(Protocol):
    """The part of `Family` that names its model classes."""

    @property
    def name(self) -> str:
        """The `model_type` of the family's configs."""
        ...

    @property
    def architecture(self) -> str:
        """The name of the causal language model class."""
        ...

    @property
    def architectures(self) -> tuple[str, ...]:
        """All names of that class."""
        ...

    @property
    def bare(self) -> str:
        """The name of the base-model class, without an LM head."""
        ...

    @property
    def stock(self) -> bool:
        """Whether transformers implements the class."""
        ...


AnyFamily = TypeVar("AnyFamily", bound=HasClasses)


def named(config: Config) -> list[str]:
    """Return the class names under `architectures`. Raises CheckpointError unless the value is a list of strings."""
    names = config.get("architectures")
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise config.wrong("architectures", "a list of class names")
    return names


def remote_class(config: Config) -> str | None:
    """Return the remote-code class of the causal language model, as `module.Class`; None without one."""
    classes = config.get("auto_map")
    found = classes.get(AUTO) if isinstance(classes, dict) else None
    return found if isinstance(found, str) else None


def check_classes(config: Config, family: HasClasses, *, tied: bool) -> None:
    """Raise CheckpointError if a config names a class other than the family's.

    The base-model class is accepted if the head is tied, since its checkpoint then holds every weight.
    """
    names, remote = named(config), remote_class(config)
    accepted = {*family.architectures, *((family.bare,) if tied else ())}
    if names and not any(_same(name, accepted) for name in names):
        raise CheckpointError(f"{config.where}: architectures names {names[0]!r}, {_reason(names[0], family)}")
    if remote is not None and not _same(remote.rpartition(".")[2], accepted):
        raise CheckpointError(f"{config.where}: auto_map names {remote!r}, {_reason(remote, family)}")


def code_note(config: Config, family: HasClasses) -> str | None:
    """Return a note if `auto_map` names remote code for a family that transformers implements; None otherwise."""
    remote = remote_class(config)
    if remote is None or not family.stock:
        return None
    return (
        f"{config.where}: auto_map names {remote}; kept never runs remote code and reads the model as transformers' "
        f"own {family.architecture} does without trust_remote_code"
    )


def _same(name: str, accepted: set[str]) -> bool:
    """Whether a class name is an accepted one, ignoring case: some releases write LLaMAForCausalLM."""
    return name.lower() in {one.lower() for one in accepted}


def _reason(name: str, family: HasClasses) -> str:
    kind = next((kind for suffix, kind in OTHER_MODELS.items() if name.endswith(suffix)), None)
    if kind is None and _same(name, {family.bare}):
        kind = "the base model without an LM head"
    if kind is not None:
        return f"{kind}; kept reads causal language models, for model_type {family.name} {family.architecture}"
    return (
        f"which may differ from {family.architecture}, the class of model_type {family.name}; "
        f"if it computes the same, write {family.architecture} there"
    )


def by_class(config: Config, families: Mapping[str, AnyFamily]) -> AnyFamily | None:
    """Return the family whose class `architectures` names; None if no family or more than one matches.

    A family whose class has that name comes before one that transformers runs by the class of another.
    """
    names = named(config)
    of_class = [one for one in families.values() if any(_same(name, {one.architecture}) for name in names)]
    also = [one for one in families.values() if any(_same(name, {*one.architectures}) for name in names)]
    found = of_class or also
    return found[0] if len(found) == 1 else None

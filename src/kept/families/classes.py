"""The classes that a config names: `architectures`, and the checkpoint's own code in `auto_map`.

transformers chooses the class by `model_type` and runs a checkpoint's own code only where it is trusted. A class of
another name computes something else, or is no language model, so it is refused; code for a class of the same name is
told of, because it is never run here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.config import Config

OTHERS = {
    "SequenceClassification": "a classifier of texts",
    "TokenClassification": "a classifier of tokens",
    "QuestionAnswering": "a finder of answers in a text",
    "MultipleChoice": "a chooser among texts",
    "RewardModel": "a reward model",
    "DoubleHeadsModel": "a language model with a second head",
    "ConditionalGeneration": "a model with more than text, or with an encoder",
}
"""By the ending of a class's name: what it is instead of a language model."""

AUTO = "AutoModelForCausalLM"


class HasClasses(Protocol):
    """A family, as far as the names of its classes go."""

    @property
    def name(self) -> str:
        """The model_type."""
        ...

    @property
    def architecture(self) -> str:
        """The class that generates text."""
        ...

    @property
    def architectures(self) -> tuple[str, ...]:
        """Every name of that class."""
        ...

    @property
    def bare(self) -> str:
        """The class without a head."""
        ...

    @property
    def stock(self) -> bool:
        """Whether transformers has the class."""
        ...


AnyFamily = TypeVar("AnyFamily", bound=HasClasses)


def named(config: Config) -> list[str]:
    """The names under `architectures`. Raises CheckpointError where these are no names."""
    names = config.get("architectures")
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise config.wrong("architectures", "a list of names of classes")
    return names


def code(config: Config) -> str | None:
    """The checkpoint's own class for generating text, as `module.Class`; None where it has none."""
    stated = config.get("auto_map")
    own = stated.get(AUTO) if isinstance(stated, dict) else None
    return own if isinstance(own, str) else None


def check_classes(config: Config, family: HasClasses, *, tied: bool) -> None:
    """Raise CheckpointError where a config names another class than the family's.

    The bare model counts as the family's where the head is tied: then nothing is missing from it.
    """
    names, own = named(config), code(config)
    known = {*family.architectures, *((family.bare,) if tied else ())}
    if names and not any(_same(name, known) for name in names):
        raise CheckpointError(f"{config.where}: architectures names {names[0]!r}, {_reason(names[0], family)}")
    if own is not None and not _same(own.rpartition(".")[2], known):
        raise CheckpointError(f"{config.where}: auto_map names {own!r}, {_reason(own, family)}")


def code_note(config: Config, family: HasClasses) -> str | None:
    """That the checkpoint brings code of its own for a model that transformers has; None where it does not."""
    own = code(config)
    if own is None or not family.stock:
        return None
    return (
        f"{config.where}: auto_map names {own}, which is never run: the model is what {family.architecture} of "
        "transformers computes, as without trust_remote_code"
    )


def _same(name: str, known: set[str]) -> bool:
    """Some releases write the name in other capitals (LLaMAForCausalLM)."""
    return name.lower() in {one.lower() for one in known}


def _reason(name: str, family: HasClasses) -> str:
    kind = next((words for ending, words in OTHERS.items() if name.endswith(ending)), None)
    if kind is None and _same(name, {family.bare}):
        kind = "the model without its head"
    if kind is not None:
        return f"{kind}; kept reads language models, of model_type {family.name} {family.architecture}"
    return (
        f"which may compute something else than {family.architecture}, the class of model_type {family.name}; "
        "if it does not, name that class there"
    )


def by_class(config: Config, families: Mapping[str, AnyFamily]) -> AnyFamily | None:
    """The one family whose class a config without a model_type names; None where there is none, or several."""
    names = named(config)
    found = [one for one in families.values() if any(_same(name, {*one.architectures}) for name in names)]
    return found[0] if len(found) == 1 else None

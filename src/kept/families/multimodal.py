"""Models that also see or hear, and whose text alone is one of the families: their text part, under its own names.

What a wrapper does to a text without an image is nothing: it embeds, and runs the model that `text_config` describes.
That holds for the classes listed here, and tests compare each with its own. Others change the text's attention or
positions (PaliGemma's prefix, Qwen2-VL's rotation in three parts), and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.unread import QUANTISED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from kept.ir.tensors import Lazy

PLAIN = (
    *("idefics3", "internvl", "llava", "llava_next", "llava_next_video", "llava_onevision"),
    *("mistral3", "smolvlm", "video_llava", "vipllava"),
)
"""Model types whose text is computed as `text_config` says, and in no other way."""

PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
    "lm_head.": "lm_head.",
}
"""How names of the text's tensors begin, in the layouts of transformers 4 and 5, and how the text model's own do."""

HEAD, TIED = "lm_head.weight", "tie_word_embeddings"

SHARED = QUANTISED
"""Keys of the whole that hold for its text too."""


@dataclass(frozen=True)
class TextPart:
    """A text model's config and tensors, and how the names of the tensors begin that are not part of it."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Lazy]
    left_out: tuple[str, ...]


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config describes a text model inside of another."""
    return isinstance(config.get("text_config"), dict)


def text_part(config: Mapping[str, Any], tensors: Mapping[str, Lazy], known: Collection[str]) -> TextPart:
    """The text part of a multimodal checkpoint; `known` are the families that are read.

    Raises CheckpointError where it is none of them, or where the whole is not known to leave it as it is.
    """
    text: dict[str, Any] = config["text_config"]
    whole, own = config.get("model_type"), text.get("model_type")
    if whole not in PLAIN or own not in known:
        raise CheckpointError(
            f"config.json: model_type {whole!r} is multimodal, with a text model of type {own!r}; the text of "
            f"{', '.join(PLAIN)} is read where it is of a family that kept reads"
        )
    named = {_own_name(name): tensor for name, tensor in tensors.items()}
    found = {name: tensor for name, tensor in named.items() if name is not None}
    # Versions differ on which of two flags counts: a stored head is read, and held against them by the family.
    tied = HEAD not in found or True in (config.get(TIED), text.get(TIED))
    shared = {key: config[key] for key in SHARED if config.get(key) is not None}
    others = sorted({_group(name) for name in tensors if _own_name(name) is None})
    return TextPart({**text, **shared, TIED: tied}, found, tuple(others))


def _own_name(name: str) -> str | None:
    """A tensor's name in the text model; None where it is of another part."""
    found = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
    return None if found is None else PREFIXES[found] + name.removeprefix(found)


def _group(name: str) -> str:
    """How the names of a part's tensors begin."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "model" else 1]) + ".*"

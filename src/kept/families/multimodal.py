"""Extract the language model of a multimodal checkpoint whose text model belongs to a known family.

For input without images or audio, the classes listed here only embed the tokens and run the model of `text_config`;
tests compare each with its own transformers class. Classes that change the text model's attention or positions
(PaliGemma's prefix mask, Qwen2-VL's three-axis RoPE) are refused.
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
"""Multimodal model types that run the model of `text_config` unchanged on text."""

PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
    "lm_head.": "lm_head.",
}
"""Tensor-name prefixes of the text model in a multimodal checkpoint (transformers 4 and 5), and its own prefixes."""

HEAD, TIED = "lm_head.weight", "tie_word_embeddings"

SHARED = QUANTISED
"""Keys of the multimodal config that also apply to the text model."""


@dataclass(frozen=True)
class TextPart:
    """The config and tensors of a text model. `left_out` has name patterns of the tensors that are not part of it."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Lazy]
    left_out: tuple[str, ...]


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config has a `text_config`, that is, contains a text model."""
    return isinstance(config.get("text_config"), dict)


def text_part(config: Mapping[str, Any], tensors: Mapping[str, Lazy], families: Collection[str]) -> TextPart:
    """Return the text model of a multimodal checkpoint. `families` are the model types that kept reads.

    Raises CheckpointError if the text model is not of a known type, or the multimodal model is not in `PLAIN`.
    """
    text: dict[str, Any] = config["text_config"]
    whole, inner = config.get("model_type"), text.get("model_type")
    if whole not in PLAIN or inner not in families:
        raise CheckpointError(
            f"config.json: model_type {whole!r} is multimodal, with a text model of type {inner!r}; kept reads the "
            f"text model of {', '.join(PLAIN)} if its own model_type is one that kept reads"
        )
    named = {_name_in_text_model(name): tensor for name, tensor in tensors.items()}
    found = {name: tensor for name, tensor in named.items() if name is not None}
    # transformers 4 and 5 read different flags: either one ties, and the family checks a stored head against it.
    tied = HEAD not in found or True in (config.get(TIED), text.get(TIED))
    shared = {key: config[key] for key in SHARED if config.get(key) is not None}
    others = sorted({_group(name) for name in tensors if _name_in_text_model(name) is None})
    return TextPart({**text, **shared, TIED: tied}, found, tuple(others))


def _name_in_text_model(name: str) -> str | None:
    """Return a tensor's name in the text model; None for a tensor of another part."""
    found = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
    return None if found is None else PREFIXES[found] + name.removeprefix(found)


def _group(name: str) -> str:
    """Return a pattern for the part of the model that a tensor belongs to, as `vision_tower.*`."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "model" else 1]) + ".*"

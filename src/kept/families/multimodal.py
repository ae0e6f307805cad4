"""Extract the language model of a multimodal checkpoint whose text model belongs to a known family.

For input without images or audio, the classes listed here only embed the tokens and run the text model; tests compare
each with its own transformers class. Qwen2-VL rotates by three positions of each token (M-RoPE), which are equal in
text, so that the rotation is plain RoPE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.unread import QUANTISED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from kept.ir.tensors import Lazy

TEXT_OF: Mapping[str, str] = {
    "gemma3": "gemma3_text",
    "idefics3": "llama",
    "internvl": "qwen2",
    "llava": "llama",
    "llava_next": "llama",
    "llava_next_video": "llama",
    "llava_onevision": "qwen2",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
    "smolvlm": "llama",
    "video_llava": "llama",
    "vipllava": "llama",
}
"""Multimodal model types, with the type of the text model if `text_config` states none."""

FLAT = ("qwen2_vl", "qwen2_5_vl")
"""Types whose older configs have the keys of the text model at the top level."""

REFUSED = {
    "paligemma": "attends to its prompt in both directions, which its text model alone does not; take the Gemma that "
    "it was trained from",
}
"""Multimodal types whose function on text is not that of the text model: the reason, as a phrase, and the way out."""

QWEN2_VL = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "max_window_layers": 80,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": dict(zip(SIZES, (256000, 3072, 24576, 28, 16), strict=True)),
    "gemma2": {**dict(zip(SIZES, (256000, 2304, 9216, 26, 8), strict=True)), "num_key_value_heads": 4},
    "gemma3_text": dict(zip(SIZES, (262208, 2304, 9216, 26, 8), strict=True)),
    "llama": dict(zip(SIZES, (32000, 4096, 11008, 32, 32), strict=True)),
    "ministral3": dict(zip(SIZES, (131072, 4096, 14336, 34, 32), strict=True)),
    "mistral": dict(zip(SIZES, (32000, 4096, 14336, 32, 32), strict=True)),
    "qwen2": {**dict(zip(SIZES, (151936, 4096, 22016, 32, 32), strict=True)), "num_key_value_heads": 32},
    "qwen2_5_vl_text": QWEN2_VL,
    "qwen2_vl_text": QWEN2_VL,
    "qwen3": {**dict(zip(SIZES, (151936, 4096, 22016, 32, 32), strict=True)), "num_key_value_heads": 32},
}
"""The values that transformers assumes for keys that `text_config` leaves out: old files state only differences."""

FAMILY_OF = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2"}
"""The family of a text model that has a type of its own."""

PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
    **{name: name for name in ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.")},
}
"""Tensor-name prefixes of the text model in a multimodal checkpoint (transformers 4 and 5), and its own prefixes."""

OUTER = ("architectures", "auto_map", "model_type", "vision_config")
"""Keys of a flat config that are not those of the text model."""

SECTIONS = ("rope_scaling", "rope_parameters")

HEAD, TIED = "lm_head.weight", "tie_word_embeddings"

SHARED = QUANTISED
"""Keys of the multimodal config that also apply to the text model."""


@dataclass(frozen=True)
class TextPart:
    """The config and tensors of a text model, and a note to the user.

    `left_out` has name patterns of the tensors that are not part of it.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Lazy]
    left_out: tuple[str, ...]
    note: str


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config has a `text_config`, that is, contains a text model, or is of a multimodal type without one."""
    return isinstance(config.get("text_config"), dict) or config.get("model_type") in FLAT


def text_part(config: Mapping[str, Any], tensors: Mapping[str, Lazy], families: Collection[str]) -> TextPart:
    """Return the text model of a multimodal checkpoint. `families` are the model types that kept reads.

    Raises CheckpointError if the text model is not of a known type, or the multimodal model is not in `TEXT_OF` or is
    in `REFUSED`.
    """
    whole = str(config.get("model_type"))
    if whole in REFUSED:
        raise CheckpointError(f"config.json: model_type {whole!r} {REFUSED[whole]}")
    text = _text_config(config)
    inner = text.get("model_type", TEXT_OF.get(whole))
    family = FAMILY_OF.get(str(inner), inner)
    if whole not in TEXT_OF or family not in families:
        raise CheckpointError(
            f"config.json: model_type {whole!r} is multimodal, with a text model of type {inner!r}; kept reads the "
            f"text model of {', '.join(TEXT_OF)} if its own model_type is one that kept reads"
        )
    named = {_name_in_text_model(name): tensor for name, tensor in tensors.items()}
    found = {name: tensor for name, tensor in named.items() if name is not None}
    # transformers 4 and 5 read different flags: either one ties, and the family checks a stored head against it.
    tied = HEAD not in found or True in (config.get(TIED), text.get(TIED))
    shared = {key: config[key] for key in SHARED if config.get(key) is not None}
    others = sorted({_group(name) for name in tensors if _name_in_text_model(name) is None})
    stated = {**_defaults(str(inner), text), **text, **shared, "model_type": family, TIED: tied}
    if text.get("architectures") == config.get("architectures"):
        stated.pop("architectures", None)
    note = f"the text model of {whole} is read: promises hold for text, without images, video or audio"
    return TextPart(_one_axis(stated), found, tuple(others), note)


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the text model: those of `text_config`, or of the whole config if it is flat."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else {key: value for key, value in config.items() if key not in OUTER}


def _defaults(kind: str, text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a type for absent keys. A base in the section of the rotation leaves none beside it."""
    in_section = any(isinstance(text.get(key), dict) and "rope_theta" in text[key] for key in SECTIONS)
    return {k: v for k, v in DEFAULTS.get(kind, {}).items() if not (in_section and k == "rope_theta")}


def _one_axis(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with plain RoPE where it states M-RoPE; any other unchanged."""
    out = dict(text)
    for key in SECTIONS:
        section = out.get(key)
        if isinstance(section, dict):
            out[key] = {k: "default" if v == "mrope" else v for k, v in section.items() if k != "mrope_section"}
    return out


def _name_in_text_model(name: str) -> str | None:
    """Return a tensor's name in the text model; None for a tensor of another part."""
    found = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
    return None if found is None else PREFIXES[found] + name.removeprefix(found)


def _group(name: str) -> str:
    """Return a pattern for the part of the model that a tensor belongs to, as `vision_tower.*`."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "model" else 1]) + ".*"

"""Files of an output besides weights, config, card and record: tokenizer, templates, licences. Code is never copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.checkpoint import templates
from kept.checkpoint.generation_config import generation_config
from kept.checkpoint.json_file import to_json
from kept.checkpoint.licences import licences
from kept.checkpoint.tokenizer_config import FAST, loader
from kept.checkpoint.tokenizer_files import has_tokenizer, only_code, reader_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kept.ir.spec import Spec

PROCESSORS = (
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    templates.OF_PROCESSOR,
)
"""Config files of image and audio processors. A text-only output has none, or AutoProcessor would expect images."""


def companions(
    source: Path,
    spec: Spec,
    reader: Path | None = None,
    suppressed_tokens: Sequence[int] = (),
    template: Path | None = None,
) -> dict[str, Path | bytes]:
    """The files of an output besides weights, config, card and record: a path to copy, or the bytes to write.

    `reader` is a directory with another tokenizer of the output; `suppressed_tokens` are ids that generation must
    never give; `template` is a file with the default chat template in place of the source's.
    """
    return {
        **reader_files(source, reader or source, template),
        **licences(source),
        "generation_config.json": to_json(generation_config(source, spec, suppressed_tokens)),
    }


def tokenizer_note(source: Path, family: str, target: str) -> str | None:
    """Return a one-line note if the tokenizer or a processor is not copied unchanged; None otherwise."""
    left = processors(source)
    if left:
        return f"{source}: {', '.join(left)} not copied: the output takes text only, no images or audio"
    if only_code(source):
        return (
            f"{source}: its tokenizer is code that is neither run nor copied, so the output has none; "
            "a tokenizer.json put into the source, or later into the output, comes along"
        )
    if loader(family, target) == FAST and has_tokenizer(source):
        return (
            f"for model type {target} AutoTokenizer of transformers 5 builds that family's own tokenizer, with other "
            f"ids: load the output's with {FAST}.from_pretrained"
        )
    return None


def processors(source: Path) -> tuple[str, ...]:
    """Return the names of the source's image and audio processor configs, which are not copied."""
    return tuple(name for name in PROCESSORS if (source / name).is_file())

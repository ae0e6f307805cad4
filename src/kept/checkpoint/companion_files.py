"""What goes along with the weights: tokenizer, generation config, chat template, licences. No code ever does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint import templates
from kept.checkpoint.default_tokens import default_tokens
from kept.checkpoint.file_access import LARGEST_COMPANION, check_file
from kept.checkpoint.generation_config import generation_config
from kept.checkpoint.json_file import json_if_there, read_json
from kept.checkpoint.safetensors_writer import to_json
from kept.checkpoint.templates import chat_templates, output_templates
from kept.errors import CheckpointError, printable
from kept.fence import FenceError, Limits, Worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.ir.spec import Spec

TIKTOKEN = "qwen.tiktoken"
"""The ranks of Qwen's first tokenizer."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", TIKTOKEN)
"""Files that a text can be read with, the best first."""

COPIED_SETTINGS = ("special_tokens_map.json", "added_tokens.json")
"""Files that say how tokens are used, whatever they are read with."""

TEMPLATES = (templates.FILE, templates.OF_PROCESSOR)
"""Files with one chat template each, besides those in `additional_chat_templates/`."""

COPIED = (*TOKENIZERS, "vocab.json", "merges.txt", *COPIED_SETTINGS, *TEMPLATES)

SETTINGS = ("tokenizer_config.json", "generation_config.json")
"""Files that are written anew from the source's."""

LICENCE_WORDS = ("licen", "notice", "copying", "use_policy", "agreement")

TEXTS = ("", ".txt", ".md", ".markdown", ".rst", ".html", ".pdf")
"""Suffixes of licence files that are copied; a numeric suffix (`LICENSE-2.0`) is copied too. No suffix of code."""

LONGEST_FRONT = 1 << 16
"""Characters of a model card within which its front matter ends."""

NOTHING = {"", "~", "null"}
"""How YAML says that there is no value."""

FAST = "PreTrainedTokenizerFast"
"""The class that loads any `tokenizer.json` unchanged, in every transformers since 4.0. The defaults of a family's own
class differ between versions, and in transformers 5 such a class builds its own tokenizer from the vocabulary."""

PROCESSORS = (
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    templates.OF_PROCESSOR,
)
"""Config files of image and audio processors. A text-only output has none, or AutoProcessor would expect images."""

SOURCE_KEYS = {
    *("auto_map", "backend", "processor_class", "fast_tokenizer_files", "is_local", "local_files_only"),
    *("name_or_path", "tokenizer_file", "vocab_file", "merges_file", "spm_file", "files_loaded"),
    *("special_tokens_map_file", "added_tokens_file", "init_inputs"),
}
"""Keys of a tokenizer config that are dropped: they name code, processors, paths or versions of the source."""

REBUILT = {"qwen2": {"qwen", "qwen2"}}
"""Model types for which transformers 5 builds a tokenizer of its own around the words of `tokenizer.json`, whatever
class the config names; and the families whose tokenizer that is."""


BUILDING = Limits(seconds=120, memory=3 << 30)
"""Limits on building a tokenizer.json; for SentencePiece every split of up to 250,000 pieces is tried."""


def companions(
    source: Path,
    spec: Spec,
    reader: Path | None = None,
    silent: Sequence[int] = (),
    template: Path | None = None,
) -> dict[str, Path | bytes]:
    """The files of an output besides weights, config, card and record: a path to copy, or the bytes to write.

    `reader` is a directory with another tokenizer that the output takes; `silent` are ids that stock generation must
    never give; `template` is a file with the default chat template in place of the source's.
    """
    return {
        **reader_files(source, reader or source, template),
        **licences(source),
        "generation_config.json": to_json(generation_config(source, spec, silent)),
    }


def reader_files(source: Path, reader: Path | None = None, template: Path | None = None) -> dict[str, Path | bytes]:
    """What reads text: the source's, or that of another directory with what of the source's settings it has not."""
    own = reader or source
    out: dict[str, Path | bytes] = {n: own / n for n in COPIED if n not in TEMPLATES and (own / n).is_file()}
    if own != source:
        out = {**{n: source / n for n in COPIED_SETTINGS if (source / n).is_file()}, **out}
    named = out.get("special_tokens_map.json")
    if isinstance(named, Path):
        out["special_tokens_map.json"] = _special_tokens_map(named)
    config = _settings(source, own, out)
    if not config:
        return out
    files, template_value = output_templates(own if chat_templates(own) else source, template)
    config = {key: value for key, value in config.items() if key != "chat_template"}
    if template_value is not None:
        config["chat_template"] = template_value
    return {**out, **files, "tokenizer_config.json": to_json(config)}


def _settings(source: Path, own: Path, out: dict[str, Path | bytes]) -> dict[str, Any]:
    """Return the output's tokenizer config. Adds a `tokenizer.json` to `out` if the source has another format only."""
    if "tokenizer.json" in out:
        return tokenizer_config(own if (own / "tokenizer_config.json").is_file() else source)
    built_from = next((name for name in TOKENIZERS if name in out), None)
    if built_from is None:
        given = (source / "tokenizer_config.json").is_file() and not only_code(source)
        return tokenizer_config(source) if given else {}
    made = built(own, built_from)
    out["tokenizer.json"] = made["tokenizer.json"].encode()
    found: dict[str, Any] = json.loads(made["tokenizer_config.json"])
    return found


def built(directory: Path, name: str) -> dict[str, str]:
    """Build tokenizer.json and its config from another format in a fenced process; return their texts by name."""
    worker = Worker("kept.checkpoint.tokenizer_worker:TokenizerBuilder", limits=BUILDING)
    try:
        found: dict[str, str] = worker.call("files", str(directory)).value
    except FenceError as error:
        raise CheckpointError(f"{directory / name}: cannot be converted to a tokenizer.json ({error})") from None
    finally:
        worker.close()
    return found


def _special_tokens_map(file: Path) -> Path | bytes:
    """Return the file itself if every transformers reads it; else its portable form."""
    given = read_json(file)
    rewritten = portable(given)
    return file if rewritten == given else to_json(rewritten)


def has_tokenizer(source: Path) -> bool:
    """Whether there is a file to read text with."""
    return any((source / name).is_file() for name in TOKENIZERS)


def only_code(source: Path) -> bool:
    """Whether a checkpoint's tokenizer is remote code, with no file to make one from."""
    file = source / "tokenizer_config.json"
    if not file.is_file() or has_tokenizer(source):
        return False
    return "auto_map" in read_json(file)


def loader(family: str, target: str) -> str:
    """The class of transformers that loads an output's tokenizer as it was in the source."""
    return FAST if target in REBUILT and family not in REBUILT[target] else "AutoTokenizer"


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


def licences(source: Path) -> dict[str, Path]:
    """The source's licence files by name, those in a directory of licences too. Links to nothing are left out.

    Raises CheckpointError for a name that is not printable and for a file that `check_file` rejects.
    """
    found: dict[str, Path] = {}
    for entry in sorted(entry for entry in source.iterdir() if _is_licence(entry)):
        inside = sorted(entry.iterdir()) if entry.is_dir() and not entry.is_symlink() else [entry]
        found.update({str(file.relative_to(source)): file for file in inside if file.is_file() and _is_text(file)})
    odd = next((name for name in found if not name.isprintable()), None)
    if odd is not None:
        raise CheckpointError(f"{source / odd}: its name is not printable UTF-8 text; rename it")
    for name in found:
        check_file(source, name, LARGEST_COMPANION)
    return found


def no_licences(source: Path) -> list[str]:
    """Return the names of files that are called like a licence but have no suffix of `TEXTS`; they are not copied."""
    return sorted(entry.name for entry in source.iterdir() if _is_called_licence(entry) and not _is_text(entry))


def _is_licence(entry: Path) -> bool:
    return _is_text(entry) and _is_called_licence(entry)


def _is_called_licence(entry: Path) -> bool:
    return any(word in entry.name.lower() for word in LICENCE_WORDS)


def _is_text(file: Path) -> bool:
    return file.suffix.lower() in TEXTS or file.suffix[1:].isdigit()


def stated_licence(source: Path) -> dict[str, str]:
    """What the front matter of the source's model card says of its licence, by key; empty where it says nothing."""
    import yaml  # noqa: PLC0415 - only where there is a card

    card = source / "README.md"
    if not card.is_file():
        return {}
    with card.open(encoding="utf-8", errors="replace") as file:
        parts = file.read(LONGEST_FRONT).split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        # The base loader knows texts, lists and maps: nothing to construct, and no merges that multiply.
        front = yaml.load(parts[1], Loader=yaml.BaseLoader)  # noqa: S506 - that loader makes no objects
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    stated = front if isinstance(front, dict) else {}
    found = {key: stated.get(key) for key in ("license", "license_name", "license_link")}
    return {key: printable(value) for key, value in found.items() if isinstance(value, str) and value not in NOTHING}


def processors(source: Path) -> tuple[str, ...]:
    """Return the names of the source's image and audio processor configs, which are not copied."""
    return tuple(name for name in PROCESSORS if (source / name).is_file())


def tokenizer_config(source: Path) -> dict[str, Any]:
    """Return the source's tokenizer config without code and paths, in a form that every transformers reads alike."""
    file = source / "tokenizer_config.json"
    given = json_if_there(file)
    config = portable({key: value for key, value in given.items() if key not in SOURCE_KEYS})
    if (source / "tokenizer.json").is_file() or "auto_map" in given or "tokenizer_class" not in given:
        # The default is true in transformers 4.45 (spaces before punctuation are removed) and false in later versions.
        config = {"clean_up_tokenization_spaces": False, **config, "tokenizer_class": FAST}
        if "auto_map" not in given:
            config |= default_tokens(source, given)
    return config


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with its special tokens in the form that transformers 4.45, 4.57 and 5 all read.

    transformers 5 writes unnamed tokens as the list `extra_special_tokens` and named ones (`image_token`) as the map
    `model_specific_special_tokens`. In 4.57 the map is called `extra_special_tokens` and the list
    `additional_special_tokens`; 4.45 reads only that list. The result has the keys of 4.57 and all tokens in the list.
    """
    out = dict(config)
    extra, named = out.pop("extra_special_tokens", None), out.pop("model_specific_special_tokens", None)
    tokens = {**(named if isinstance(named, dict) else {}), **(extra if isinstance(extra, dict) else {})}
    listed = [*(extra if isinstance(extra, list) else ()), *tokens.values()]
    if listed or isinstance(extra, list):
        further = [*(out.get("additional_special_tokens") or []), *map(_added_token, listed)]
        out["additional_special_tokens"] = [token for at, token in enumerate(further) if token not in further[:at]]
    return {**out, **({"extra_special_tokens": tokens} if tokens else {})}


def _added_token(token: object) -> object:
    """Return a token; one with flags gets the `__type` without which transformers reads it as a plain map."""
    return {**token, "__type": "AddedToken"} if isinstance(token, dict) else token

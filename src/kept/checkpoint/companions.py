"""What goes along with the weights: tokenizer, generation config, chat template, licences. No code ever does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint import templates
from kept.checkpoint.defaults import default_tokens
from kept.checkpoint.generation import generation_config
from kept.checkpoint.json_file import json_if_there, read_json
from kept.checkpoint.links import LARGEST_COMPANION, check_file
from kept.checkpoint.templates import chat_templates, output_templates
from kept.checkpoint.writer import to_json
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
"""Files with a chat template each, beside those of `additional_chat_templates`."""

COPIED = (*TOKENIZERS, "vocab.json", "merges.txt", *COPIED_SETTINGS, *TEMPLATES)

SETTINGS = ("tokenizer_config.json", "generation_config.json")
"""Files that are written anew from the source's."""

LICENCE_WORDS = ("licen", "notice", "copying", "use_policy", "agreement")

TEXTS = ("", ".txt", ".md", ".markdown", ".rst", ".html", ".pdf")
"""Endings of the licence files that are copied, beside numbers (`LICENSE-2.0`): nothing that is run or loaded."""

LONGEST_FRONT = 1 << 16
"""Characters of a model card within which its front matter ends."""

NOTHING = {"", "~", "null"}
"""How YAML says that there is no value."""

FAST = "PreTrainedTokenizerFast"
"""The class that loads any `tokenizer.json` as it is, under every transformers since 4.0. A family's own class has
other defaults in each version, and in transformers 5 builds a tokenizer of its own around the words of the file."""

PROCESSORS = (
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    templates.OF_PROCESSOR,
)
"""Files of what prepares images and sounds. An output reads text: with them, AutoProcessor would wait for images."""

OF_THE_SOURCE = {
    *("auto_map", "backend", "processor_class", "fast_tokenizer_files", "is_local", "local_files_only"),
    *("name_or_path", "tokenizer_file", "vocab_file", "merges_file", "spm_file", "files_loaded"),
    *("special_tokens_map_file", "added_tokens_file", "init_inputs"),
}
"""Keys of a tokenizer config that name code, a processor, a path or a version of transformers, and no output's."""

REBUILT = {"qwen2": {"qwen", "qwen2"}}
"""Model types for which transformers 5 builds a tokenizer of its own around the words of `tokenizer.json`, whatever
class the config names; and the families whose tokenizer that is."""


BUILDING = Limits(seconds=120, memory=3 << 30)
"""Of building a tokenizer.json: every split of each of 250,000 pieces is looked at."""


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
    files, said = output_templates(own if chat_templates(own) else source, template)
    config = {key: value for key, value in config.items() if key != "chat_template"}
    spoken = {} if said is None else {"chat_template": said}
    return {**out, **files, "tokenizer_config.json": to_json({**config, **spoken})}


def _settings(source: Path, own: Path, out: dict[str, Path | bytes]) -> dict[str, Any]:
    """What the output's tokenizer config says; a `tokenizer.json` that the source lacks is built into `out`."""
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
    """A tokenizer.json and its config for a directory with another format, built in a fenced process."""
    worker = Worker("kept.checkpoint.reading:Building", limits=BUILDING)
    try:
        found: dict[str, str] = worker.call("files", str(directory)).value
    except FenceError as error:
        raise CheckpointError(f"{directory / name}: no tokenizer.json can be made of it ({error})") from None
    finally:
        worker.close()
    return found


def _special_tokens_map(file: Path) -> Path | bytes:
    """The file as it is, where every transformers reads it."""
    given = read_json(file)
    said = portable(given)
    return file if said == given else to_json(said)


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
    """What to tell the user of a tokenizer that does not come along as it is, in one line; None where it does."""
    left = processors(source)
    if left:
        return f"{source}: {', '.join(left)} stay behind: the output reads text, and no images or sounds"
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

    Raises CheckpointError for a name that cannot be written into a record, and for a file that may not be read.
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
    """The files whose names are those of licences and whose endings are not those of texts: they are not copied."""
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
    """Files of a source that prepare images and sounds, which stay behind."""
    return tuple(name for name in PROCESSORS if (source / name).is_file())


def tokenizer_config(source: Path) -> dict[str, Any]:
    """The source's, less code and paths, under a class and with keys that every transformers reads alike."""
    file = source / "tokenizer_config.json"
    given = json_if_there(file)
    config = portable({key: value for key, value in given.items() if key not in OF_THE_SOURCE})
    if (source / "tokenizer.json").is_file() or "auto_map" in given or "tokenizer_class" not in given:
        # Transformers 4.45 removes spaces before signs where a class does not say otherwise; later ones do not.
        config = {"clean_up_tokenization_spaces": False, **config, "tokenizer_class": FAST}
        if "auto_map" not in given:
            config |= default_tokens(source, given)
    return config


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Special tokens as each version of transformers reads them.

    Transformers 5 lists further tokens as `extra_special_tokens`, and keeps those with a name of their own
    (`image_token`) in `model_specific_special_tokens`; to 4.57 the first is a map of the second, and a list has another
    key, the only one that 4.45 reads. That form, with all tokens in the list, is read by all.
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
    """A token with its flags is marked as one, or it is read as a map."""
    return {**token, "__type": "AddedToken"} if isinstance(token, dict) else token

"""What goes along with the weights: tokenizer, generation config, chat template, licences. No code ever does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.checkpoint.reader import PICKLES, read_json
from kept.checkpoint.writer import to_json
from kept.errors import CheckpointError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kept.ir.spec import Spec

TIKTOKEN = "qwen.tiktoken"
"""The ranks of Qwen's first tokenizer."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", TIKTOKEN)
"""Files that a text can be read with, the best first."""

COPIED_SETTINGS = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json")
"""Files that say how tokens are used, whatever they are read with."""

COPIED = (*TOKENIZERS, "vocab.json", "merges.txt", *COPIED_SETTINGS)

SETTINGS = ("tokenizer_config.json", "generation_config.json")
"""Files that are written anew from the source's."""

LICENCE_WORDS = ("licen", "notice", "copying", "use_policy", "agreement")

LONGEST_FRONT = 1 << 16
"""Characters of a model card within which its front matter ends."""

NOTHING = {"", "~", "null"}
"""How YAML says that there is no value."""

FAST = "PreTrainedTokenizerFast"
"""The class that loads any `tokenizer.json`, under every transformers since 4.0."""

REBUILT = {"qwen2": {"qwen", "qwen2"}}
"""Model types for which transformers 5 builds a tokenizer of its own around the words of `tokenizer.json`, whatever
class the config names; and the families whose tokenizer that is."""


def companions(
    source: Path, spec: Spec, reader: Path | None = None, silent: Sequence[int] = ()
) -> dict[str, Path | bytes]:
    """The files of an output besides weights, config, card and record: a path to copy, or the bytes to write.

    `reader` is a directory with another tokenizer that the output takes; `silent` are ids that stock generation must
    never give.
    """
    return {
        **reader_files(source, reader or source),
        **licences(source),
        "generation_config.json": to_json(_generation_config(source, spec, silent)),
    }


def reader_files(source: Path, reader: Path | None = None) -> dict[str, Path | bytes]:
    """What reads text: the source's, or that of another directory with what of the source's settings it has not."""
    own = reader or source
    out: dict[str, Path | bytes] = {n: own / n for n in COPIED if (own / n).is_file()}
    if own != source:
        out = {**{n: source / n for n in COPIED_SETTINGS if (source / n).is_file()}, **out}
    settings = own if (own / "tokenizer_config.json").is_file() else source
    if "tokenizer.json" in out:
        out["tokenizer_config.json"] = to_json(tokenizer_config(settings))
    elif "tokenizer.model" in out:
        from kept.checkpoint.sentencepiece import tokenizer_files  # noqa: PLC0415 - inspecting needs no tokenizers

        out.update(tokenizer_files(own))
    elif TIKTOKEN in out:
        from kept.checkpoint.tiktoken import tiktoken_files  # noqa: PLC0415 - the same

        out.update(tiktoken_files(own))
    elif (source / "tokenizer_config.json").is_file() and not only_code(source):
        out["tokenizer_config.json"] = to_json(tokenizer_config(source))
    return out


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
    """What to tell the user of a tokenizer that does not come along by itself, in one line; None where it does."""
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

    Raises CheckpointError for a name that cannot be written into a record.
    """
    found: dict[str, Path] = {}
    for entry in sorted(entry for entry in source.iterdir() if _is_licence(entry)):
        inside = sorted(entry.iterdir()) if entry.is_dir() and not entry.is_symlink() else [entry]
        found.update({str(file.relative_to(source)): file for file in inside if file.is_file() and _is_text(file)})
    odd = next((name for name in found if not name.isprintable()), None)
    if odd is not None:
        raise CheckpointError(f"{source / odd}: its name is not printable UTF-8 text; rename it")
    return found


def _is_licence(entry: Path) -> bool:
    return _is_text(entry) and any(word in entry.name.lower() for word in LICENCE_WORDS)


def _is_text(file: Path) -> bool:
    """Neither code nor weights."""
    weights = any(file.match(pattern) for pattern in ("*.safetensors", *PICKLES))
    return not weights and file.suffix != ".py"


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
        front = yaml.load(parts[1], Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    stated = front if isinstance(front, dict) else {}
    found = {key: stated.get(key) for key in ("license", "license_name", "license_link")}
    return {key: printable(value) for key, value in found.items() if isinstance(value, str) and value not in NOTHING}


def tokenizer_config(source: Path) -> dict[str, Any]:
    """The source's, less remote code, under a class that every transformers knows."""
    file = source / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    remote = config.pop("auto_map", None) is not None
    config.pop("backend", None)
    if remote or not _is_stock(config.get("tokenizer_class")):
        config["tokenizer_class"] = FAST
    return config


def _is_stock(name: object) -> bool:
    """Whether every transformers has a tokenizer class of that name."""
    import transformers  # noqa: PLC0415 - slow, and only where there is a tokenizer

    # Looked up, not asked for: asking would import the module that the checkpoint names.
    named = isinstance(name, str) and "Tokenizer" in name and name != "TokenizersBackend"
    return named and name in dir(transformers)


def _generation_config(source: Path, spec: Spec, silent: Sequence[int]) -> dict[str, Any]:
    file = source / "generation_config.json"
    given = read_json(file) if file.is_file() else {}
    eos = spec.tokens.eos
    ids = {
        "bos_token_id": spec.tokens.bos,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": spec.tokens.pad,
    }
    own = {key: value for key, value in given.items() if key not in {"transformers_version", "_from_model_config"}}
    if silent:
        own["suppress_tokens"] = sorted({*(own.get("suppress_tokens") or ()), *silent})
    return {**{key: value for key, value in ids.items() if value is not None}, **own}

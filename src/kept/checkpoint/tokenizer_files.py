"""The tokenizer files of an output: copied from the source, or built where the source has another format only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kept.checkpoint.file_names import COPIED, COPIED_SETTINGS, TEMPLATES, TOKENIZERS
from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.templates import chat_templates, output_templates
from kept.checkpoint.tokenizer_config import portable, tokenizer_config
from kept.errors import CheckpointError
from kept.fence import FenceError, Limits, Worker

BUILDING = Limits(seconds=120, memory=3 << 30, text=256 << 20)
"""Limits on building a tokenizer.json; for SentencePiece every split of up to 250,000 pieces is tried."""


def reader_files(source: Path, reader: Path | None = None, template: Path | None = None) -> dict[str, Path | bytes]:
    """Return the tokenizer files: the source's, or another directory's with the source's settings that it lacks."""
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

"""The tokenizer files of an output whose source has a SentencePiece model only."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, processors

from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.sentencepiece import tokenizer_of
from kept.checkpoint.sentencepiece_model import PieceKind, SentencePieceModel, read_model
from kept.checkpoint.tokenizer_config import CARRIED, portable
from kept.checkpoint.tokenizer_json import serialized
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tokenizers import Tokenizer

DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
"""The names that the source's class falls back on."""

NAMED = (*DEFAULTS, "sep_token", "pad_token", "cls_token", "mask_token")

FLAGS = ("lstrip", "rstrip", "single_word", "special")

RESERVED = re.compile(r"<.+>|\[.+\]")
"""How a piece is named that waits for a use, such as `[UNUSED_TOKEN_146]` or `<reserved_106>`."""


def tokenizer_files(directory: Path) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json` for a directory with a `tokenizer.model`, by name.

    Stock transformers, 4.41 and later, load them as PreTrainedTokenizerFast; code beside them is neither run nor
    named. (Beside a config.json of model_type qwen2, AutoTokenizer 5.x insists on its own class and pre-tokenizer.)
    Raises CheckpointError naming the file that is missing, damaged or disagrees with the model file.
    """
    model = read_model(directory / "tokenizer.model")
    settings = _settings(directory, model)
    try:
        tokenizer = tokenizer_of(_renamed(model, settings))
        _add_tokens(tokenizer, settings)
        _add_template(tokenizer, settings)
    except ValueError as error:
        raise CheckpointError(f"{directory / 'tokenizer_config.json'}: {error}") from None
    config = _config(tokenizer, settings)
    return {"tokenizer.json": to_json(serialized(tokenizer)), "tokenizer_config.json": to_json(config)}


def _settings(directory: Path, model: SentencePieceModel) -> dict[str, Any]:
    """The source's settings; as in transformers, special_tokens_map.json yields where added_tokens_decoder is."""
    config, names, added = (
        read_json(directory / name) if (directory / name).exists() else {}
        for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    )
    config, names = portable(config), portable(names)
    texts = {piece.text for piece in model.pieces}
    known = {key: name for key, name in DEFAULTS.items() if name in texts}
    if "added_tokens_decoder" in config:
        return known | names | config
    return known | config | names | {"added_tokens_decoder": {str(at): name for name, at in added.items()}}


def _renamed(model: SentencePieceModel, settings: Mapping[str, Any]) -> SentencePieceModel:
    """The model with the names that the settings list under ids of reserved pieces. Raises ValueError as below."""
    pieces, texts = list(model.pieces), {piece.text for piece in model.pieces}
    for at, token in _listed(settings).items():
        if not 0 <= at < len(pieces) or pieces[at].kind in {PieceKind.BYTE, PieceKind.UNKNOWN}:
            continue
        if RESERVED.fullmatch(pieces[at].text) and token.content not in texts:
            kind = PieceKind.CONTROL if token.special else PieceKind.USER_DEFINED
            pieces[at] = replace(pieces[at], text=token.content, kind=kind)
    return replace(model, pieces=tuple(pieces))


def _listed(settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """The tokens that are listed with an id. Raises ValueError where the list has another form."""
    entries = settings.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict):
        raise ValueError("has added_tokens_decoder of another form")  # noqa: TRY004 - the file's fault, not the caller's
    return {int(at): _added_token(entry) for at, entry in entries.items()}


def _add_tokens(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Add the tokens that are listed with an id, then those that are only named; the latter are special.

    Raises ValueError where a token would get another id than it is listed with.
    """
    listed = _listed(settings)
    if not isinstance(settings.get("additional_special_tokens") or [], list):
        raise ValueError("has additional_special_tokens of another form")  # noqa: TRY004 - as above
    tokens = {listed[at].content: listed[at] for at in sorted(listed)}
    named = [settings[key] for key in NAMED if settings.get(key)]
    for entry in [*named, *(settings.get("additional_special_tokens") or [])]:
        token = _added_token(entry)
        tokens.setdefault(token.content, token).special = True
    tokenizer.add_tokens(list(tokens.values()))
    for at, token in listed.items():
        if (there := tokenizer.token_to_id(token.content)) != at:
            raise ValueError(f"lists {token.content!r} as token {at}, by tokenizer.model it is {there}")


def _added_token(entry: object) -> AddedToken:
    if isinstance(entry, str):
        return AddedToken(entry, normalized=False)
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise ValueError(f"names a token as {entry!r}")  # noqa: TRY004 - the file's fault, not the caller's
    flags = {flag: bool(entry.get(flag, False)) for flag in FLAGS}
    return AddedToken(entry["content"], normalized=False, **flags)


def _add_template(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Put the first and the last token around each text where the source's tokenizer does."""
    bos, eos = _ends(settings)
    single, second = ([f"{item}:{at}" for item in (*bos, text, *eos)] for at, text in enumerate(("$A", "$B")))
    special = [(token, tokenizer.token_to_id(token)) for token in sorted({*bos, *eos})]
    tokenizer.post_processor = processors.TemplateProcessing(single, single + second, special)


def _ends(settings: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The token put before each text, and the one behind; Orion's class adds the first unless told otherwise."""
    ends = []
    for end, usual in (("bos", bool(settings.get("bos_token"))), ("eos", False)):
        wanted, token = settings.get(f"add_{end}_token", usual), settings.get(f"{end}_token")
        if wanted and not token:
            raise ValueError(f"sets add_{end}_token but no {end}_token")
        ends.append([_added_token(token).content] if wanted else [])
    return ends[0], ends[1]


def _config(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the fast tokenizer; nothing that names remote code."""
    bos, eos = _ends(settings)
    further = [_added_token(entry).content for entry in settings.get("additional_special_tokens") or []]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: _added_token(settings[key]).content for key in NAMED if settings.get(key)},
        **({"additional_special_tokens": further} if further else {}),
        "add_bos_token": bool(bos),
        "add_eos_token": bool(eos),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **{key: settings[key] for key in CARRIED if settings.get(key) is not None},
        "added_tokens_decoder": {
            str(at): {name: getattr(token, name) for name in ("content", "normalized", *FLAGS)}
            for at, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
    }

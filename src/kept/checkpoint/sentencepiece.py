"""A fast `tokenizer.json` from a SentencePiece `tokenizer.model`, for checkpoints that ship only that and remote code.

The result gives the ids and the text of SentencePiece (github.com/google/sentencepiece, arXiv:1808.06226), with these
exceptions, each owed to what the `tokenizers` library can express:

- Control symbols and the unknown piece are special tokens, so their names are matched in text, as Hugging Face does;
  SentencePiece reads such a name as ordinary characters. The unknown piece decodes to nothing, not to ` ⁇ `.
- BPE breaks ties between pieces of equal score by rank, not leftmost first. Trained models have no such ties; models
  whose vocabulary was extended by hand may. A piece with a character that is no piece itself is never merged.
- Unigram sums scores in double precision, SentencePiece in single: where two segmentations score the same (`s` `ss`,
  `ss` `s`), or almost the same in a text of thousands of characters, it may take the other.
- A character map (nmt_nfkc and the like) loses a mark on a character that it rewrites (`ª` and U+0301), and brings
  three and more marks on one letter into canonical order; `tokenizers` maps graphemes, SentencePiece longest matches.
- Between user-defined symbols BPE takes a piece that stands alone even where merging would not reach it.
- Where white space is trimmed, decoding drops every `▁` at the start, SentencePiece one a piece.
- Bytes that are no UTF-8, which only a model's output can hold, decode to one U+FFFD each for the whole run.

Text behind a special token gets a dummy prefix of its own, as in the Python tokenizers that this replaces. A token
that the settings list under the id of a reserved piece takes its place and its name, as there; the piece's own name
is then plain text.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.tokenizer_config import portable
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SPACE = "▁"
"""What SentencePiece writes for a space, U+2581."""


class PieceKind(IntEnum):
    """What a piece is for, as `sentencepiece_model.proto` numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: PieceKind


@dataclass(frozen=True)
class SentencePieceModel:
    """What a `tokenizer.model` says, as far as ids and text depend on it."""

    pieces: tuple[Piece, ...]
    algorithm: str
    byte_fallback: bool
    space_is_suffix: bool
    charsmap: bytes
    dummy_prefix: bool
    trim: bool
    escape: bool
    denormalizes: bool

    def texts(self, *kinds: PieceKind) -> list[str]:
        """The pieces of these kinds, in order of id."""
        return [piece.text for piece in self.pieces if piece.kind in kinds]

    @property
    def unknown(self) -> int:
        """The id of the unknown piece."""
        return next(at for at, piece in enumerate(self.pieces) if piece.kind is PieceKind.UNKNOWN)


# ---------------------------------------------------------------------------------------------- reading the model

LONGEST_PIECE = 4096
"""Characters; a trainer stops at 16 unless told otherwise. Every split of every piece is looked at."""

ALGORITHMS = {1: "UNIGRAM", 2: "BPE", 3: "WORD", 4: "CHAR"}

LONGEST_PIECE = 4096
"""Characters; a trainer stops at 16 unless told otherwise. Every split of every piece is looked at."""

FIXED_SIZES = {1: 8, 5: 4}
"""Bytes of a field by its wire type, where the type fixes them."""


def read_model(file: Path) -> SentencePieceModel:
    """Read a `tokenizer.model`, without protobuf: the generated reader demands one version of its runtime.

    Raises CheckpointError naming the file where it is missing, damaged or not what `tokenizers` can express.
    """
    try:
        model = _model(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; the tokenizer is made from it") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        raise CheckpointError(f"{file}: is no SentencePiece model, or not the whole of one; fetch it again") from None
    if reason := _damage(model):
        raise CheckpointError(f"{file}: is damaged, {reason}; fetch it again")
    if reason := _inexpressible(model):
        raise CheckpointError(f"{file}: {reason}, which is not converted; put a tokenizer.json beside it")
    return model


def _model(raw: bytes) -> SentencePieceModel:
    fields = list(_fields(raw))
    parts: dict[int, Any] = dict(fields)  # of fields given twice, the last
    trainer, normalizer = dict(_fields(parts[2])), dict(_fields(parts[3]))
    return SentencePieceModel(
        pieces=tuple(_piece(dict(_fields(value))) for number, value in fields if number == 1),
        algorithm=ALGORITHMS[trainer.get(3, 1)],
        byte_fallback=bool(trainer.get(35, 0)),
        space_is_suffix=bool(trainer.get(24, 0)),
        charsmap=_bytes(normalizer.get(2, b"")),
        dummy_prefix=bool(normalizer.get(3, 1)),
        trim=bool(normalizer.get(4, 1)),
        escape=bool(normalizer.get(5, 1)),
        denormalizes=bool(dict(_fields(parts.get(5, b""))).get(2, b"")),
    )


def _bytes(value: object) -> bytes:
    """The bytes of a field: a number in its place would ask for that many."""
    if not isinstance(value, bytes):
        raise TypeError(value)
    return value


def _piece(fields: dict[int, Any]) -> Piece:
    (score,) = struct.unpack("<f", fields[2]) if 2 in fields else (0.0,)
    return Piece(fields[1].decode("utf-8"), score, PieceKind(fields.get(3, PieceKind.NORMAL)))


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number, and an int or the bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire_type = divmod(key, 8)
        if wire_type == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        size, at = _varint(raw, at) if wire_type == 2 else (FIXED_SIZES[wire_type], at)
        if at + size > len(raw):
            raise ValueError(at)
        yield number, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        value |= (raw[at + place] & 0x7F) << (7 * place)
        if raw[at + place] < 0x80:
            return value, at + place + 1
    raise ValueError(at)


def _damage(model: SentencePieceModel) -> str:
    """Why SentencePiece itself would not load this model, or nothing."""
    texts = [piece.text for piece in model.pieces]
    every_byte = {f"<0x{byte:02X}>" for byte in range(256)}
    reasons = {
        f"a piece has more than {LONGEST_PIECE} characters": any(len(text) > LONGEST_PIECE for text in texts),
        "a piece is empty or there twice": len(set(texts)) < len(texts) or "" in texts,
        "it has not one unknown piece": len(model.texts(PieceKind.UNKNOWN)) != 1,
        "a score is no number": not all(math.isfinite(piece.score) for piece in model.pieces),
        "its byte pieces are wrong": set(model.texts(PieceKind.BYTE)) != (every_byte if model.byte_fallback else set()),
        "its character map is broken": not _readable(model.charsmap),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _readable(charsmap: bytes) -> bool:
    try:
        return not charsmap or bool(normalizers.Precompiled(charsmap))
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interruption
        return False


def _inexpressible(model: SentencePieceModel) -> str:
    unused = model.texts(PieceKind.UNUSED)
    reasons = {
        f"is a {model.algorithm} model": model.algorithm not in {"BPE", "UNIGRAM"},
        "puts spaces behind words (treat_whitespace_as_suffix)": model.space_is_suffix,
        "rewrites what it decodes (denormalizer_spec)": model.denormalizes,
        f"has unused pieces such as {unused[:1]}": bool(unused),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


# ------------------------------------------------------------------------------------------ building the tokenizer


def fast_tokenizer(model_file: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.model`, without a post-processor: `encode` adds no special tokens.

    Raises CheckpointError naming the file where it is missing, damaged or not what `tokenizers` can express.
    """
    return tokenizer_of(read_model(model_file))


def tokenizer_of(model: SentencePieceModel) -> Tokenizer:
    """The tokenizer that gives the model's ids."""
    tokenizer = Tokenizer(_bpe(model) if model.algorithm == "BPE" else _unigram(model))
    tokenizer.normalizer = _normalizer(model)
    if pre_tokenizer := _pre_tokenizer(model):
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = _decoder(model)
    tokenizer.add_special_tokens([_special(text) for text in model.texts(PieceKind.UNKNOWN, PieceKind.CONTROL)])
    return tokenizer


def _special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


def _bpe(model: SentencePieceModel) -> models.BPE:
    return models.BPE(
        vocab={piece.text: at for at, piece in enumerate(model.pieces)},
        merges=_merges(model),
        unk_token=model.pieces[model.unknown].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=bool(model.texts(PieceKind.USER_DEFINED)),
    )


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, best score first.

    SentencePiece merges two neighbours whenever together they are a piece, whatever they are made of.
    """
    pieces = set(model.texts(PieceKind.NORMAL))
    return [
        (piece.text[:cut], piece.text[cut:])
        for piece in sorted(model.pieces, key=lambda piece: -piece.score)
        if piece.kind is PieceKind.NORMAL
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in pieces and piece.text[cut:] in pieces
    ]


def _unigram(model: SentencePieceModel) -> models.Unigram:
    vocab = [
        (piece.text, _bonus(piece) if piece.kind is PieceKind.USER_DEFINED else piece.score) for piece in model.pieces
    ]
    return models.Unigram(vocab, model.unknown, model.byte_fallback)


def _bonus(symbol: Piece) -> float:
    """The score by which SentencePiece 0.2.3 prefers a user-defined symbol; earlier ones gave -0.1."""
    return 0.1 * (len(symbol.text.encode()) - 1)


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    """What SentencePiece does to a text, in its order: untrimmed, even a text that maps to nothing has its prefix."""
    shields = _shields(model)
    hide = [normalizers.Replace(symbol, shield) for symbol, shield in shields.items()]
    show = [normalizers.Replace(shield, symbol) for symbol, shield in shields.items()]
    prefix = [normalizers.Prepend(" ")] if model.dummy_prefix else []
    escape = [normalizers.Replace(" ", SPACE)] if model.escape else []
    if not model.trim:
        return normalizers.Sequence([*hide, *prefix, *_charsmap(model), *escape, *show])
    start, runs = normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")
    end = normalizers.Replace(Regex(rf"{SPACE if model.escape else ' '}+\z"), "")
    return normalizers.Sequence([*hide, *_charsmap(model), start, runs, *prefix, *escape, *show, end])


def _charsmap(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    """The character map, between what keeps `tokenizers` from losing characters.

    Precompiled looks up a short grapheme (a letter and its marks, CR and LF) as a whole and then replaces all of it
    with what its first rule gives; of a long one it looks up each character. NFC composes what the map would.
    """
    if not model.charsmap:
        return []
    charsmap = normalizers.Precompiled(model.charsmap)
    lines = charsmap.normalize_str("\r") == charsmap.normalize_str("\n")
    composes = charsmap.normalize_str("e\u0301") == "é"
    return [
        *([normalizers.Replace("\r\n", "\n\n")] if lines else []),
        *([normalizers.NFC(), charsmap, normalizers.NFC()] if composes else [charsmap]),
    ]


def _shields(model: SentencePieceModel) -> dict[str, str]:
    """A private-use character to stand for each user-defined symbol that the character map would change."""
    charsmap = normalizers.Sequence(_charsmap(model))
    symbols = [symbol for symbol in model.texts(PieceKind.USER_DEFINED) if charsmap.normalize_str(symbol) != symbol]
    return {symbol: chr(0xF0000 + at) for at, symbol in enumerate(sorted(symbols, key=len, reverse=True))}


def _pre_tokenizer(model: SentencePieceModel) -> pre_tokenizers.PreTokenizer | None:
    """What holds pieces apart. SentencePiece segments a text as a whole, but for user-defined symbols in BPE."""
    symbols = sorted(model.texts(PieceKind.USER_DEFINED), key=len, reverse=True)
    reserved = pre_tokenizers.Split(Regex(_reserved(model)), "merged_with_previous")
    if model.algorithm == "UNIGRAM":
        return reserved
    if not symbols:
        return None
    isolated = pre_tokenizers.Split(Regex("|".join(map(re.escape, symbols))), "isolated")
    return pre_tokenizers.Sequence([isolated, reserved])


def _reserved(model: SentencePieceModel) -> str:
    """The first character of a name that text must not spell, such as `<0x0A>`: what follows is segmented apart."""
    names = [
        re.escape(text[0]) + f"(?={re.escape(text[1:])})" for text in model.texts(PieceKind.UNKNOWN, PieceKind.CONTROL)
    ]
    return "|".join([*names, *(["<(?=0x[0-9A-F]{2}>)"] if model.byte_fallback else [])])


def _decoder(model: SentencePieceModel) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.ByteFallback()] if model.byte_fallback else []
    steps.append(decoders.Fuse())
    if model.trim or model.dummy_prefix:
        steps.append(decoders.Strip(SPACE, left=1 << 16 if model.trim else 1, right=0))
    return decoders.Sequence([*steps, decoders.Replace(SPACE, " ")])


# ------------------------------------------------------------------------------------------------ writing the files

DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
"""The names that the source's class falls back on."""

NAMED = (*DEFAULTS, "sep_token", "pad_token", "cls_token", "mask_token")

CARRIED = ("chat_template", "extra_special_tokens", "model_max_length", "padding_side", "truncation_side")
"""Settings that mean the same to a fast tokenizer. The rest belongs to the source's own class."""

FLAGS = ("lstrip", "rstrip", "single_word", "special")


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


RESERVED = re.compile(r"<.+>|\[.+\]")
"""How a piece is named that waits for a use, such as `[UNUSED_TOKEN_146]` or `<reserved_106>`."""


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


def serialized(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer as JSON, with merges as `left right`, all that tokenizers 0.19 reads, where that is unambiguous."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    merges = content["model"].get("merges", [])
    if not any(" " in left + right or left.startswith("#version") for left, right in merges):
        content["model"] |= {"merges": [f"{left} {right}" for left, right in merges]} if merges else {}
    return content

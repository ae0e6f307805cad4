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

import re
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from kept.checkpoint.sentencepiece_model import PieceKind, read_model

if TYPE_CHECKING:
    from pathlib import Path

    from kept.checkpoint.sentencepiece_model import Piece, SentencePieceModel

SPACE = "▁"
"""The character that SentencePiece writes for a space, U+2581."""


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
    """Return the normalizers of SentencePiece in its order. Without trimming, an empty text keeps its prefix."""
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
    """Return the pre-tokenizer. SentencePiece segments a text as a whole, but for user-defined symbols in BPE."""
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

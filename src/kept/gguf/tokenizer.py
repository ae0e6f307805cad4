"""Build a fast tokenizer from the metadata of a GGUF file. Ids equal llama.cpp's, with special tokens parsed.

Byte-level BPE (`gpt2`) is stored with its merges. For SentencePiece BPE (`llama`) the merges are derived from scores,
with the exceptions listed in `kept.checkpoint.sentencepiece`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import to_json
from kept.checkpoint.templates import DEFAULT, LONGEST
from kept.checkpoint.tokenizer_json import serialized
from kept.errors import CheckpointError
from kept.gguf.vocabulary import BYTE, CONTROL, UNKNOWN, USER_DEFINED, GgufVocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer as PreTokenizers

    from kept.gguf.pretokenizers import PreTokenizer

NAMED = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
}
"""Setting of the tokenizer config, and the word in its GGUF key; `seperator` is llama.cpp's spelling."""

TEMPLATE = "tokenizer.chat_template"

MOST_SPLITS = 1 << 28
"""Sum of the squared lengths of all pieces: the work to derive merges. Gemma's vocabulary has 20 million."""


def missing(metadata: Mapping[str, Any]) -> str:
    """Return why a file's tokenizer cannot be rebuilt; empty if it can."""
    vocabulary = GgufVocabulary(metadata)
    match vocabulary.model:
        case "" | "none" | "no_vocab":
            return "the file has no tokenizer"
        case "llama":
            return "" if vocabulary.scores else "the file has no scores for its SentencePiece model"
        case "gpt2":
            name = str(vocabulary.get("pre", ""))[:60]
            return "" if _pre_tokenizer(vocabulary) is not None else f"its pre-tokenizer {name!r} is not supported"
        case other:
            return f"tokenizers of type {other!r} are not supported"


def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Return `tokenizer.json` and `tokenizer_config.json` by name; no files if the tokenizer cannot be rebuilt.

    Call it in a fenced process. Raises CheckpointError naming the damaged key, and any error of `tokenizers`.
    """
    if missing(metadata):
        return {}
    vocabulary = GgufVocabulary(metadata)
    tokenizer = _sentencepiece(vocabulary) if vocabulary.model == "llama" else _byte_level(vocabulary)
    _add_post_processor(tokenizer, vocabulary)
    content = serialized(tokenizer)
    plain = {*vocabulary.of(USER_DEFINED)}
    for token in content["added_tokens"]:
        token["special"] = token["content"] not in plain
    return {"tokenizer.json": to_json(content), "tokenizer_config.json": to_json(_config(vocabulary, content))}


def _pre_tokenizer(vocabulary: GgufVocabulary) -> PreTokenizer | None:
    from kept.gguf.pretokenizers import PRE_TOKENIZERS  # noqa: PLC0415 - needed for GGUF files only

    return PRE_TOKENIZERS.get(str(vocabulary.get("pre", "")))


def _byte_level(vocabulary: GgufVocabulary) -> Tokenizer:
    """Return a byte-level BPE tokenizer. As in llama.cpp, bytes outside the vocabulary get no id."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - as above

    pre = _pre_tokenizer(vocabulary)
    assert pre is not None
    vocab = {text: at for at, text in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, vocabulary.merges, ignore_merges=pre.ignore_merges))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level, *_isolate_missing_bytes(vocab)])
    tokenizer.decoder = decoders.ByteLevel()
    stripped = _right_stripped(vocabulary)
    special = vocabulary.of(CONTROL, USER_DEFINED, UNKNOWN)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, rstrip=text in stripped) for text in special])
    return tokenizer


def _isolate_missing_bytes(vocab: Mapping[str, int]) -> list[PreTokenizers]:
    """Return a pre-tokenizer that splits at bytes outside the vocabulary, so that merges do not cross them."""
    from tokenizers import Regex, pre_tokenizers  # noqa: PLC0415 - as above

    missing = "".join(re.escape(letter) for letter in sorted({*pre_tokenizers.ByteLevel.alphabet()} - vocab.keys()))
    return [pre_tokenizers.Split(Regex(f"[{missing}]"), "isolated")] if missing else []


def _sentencepiece(vocabulary: GgufVocabulary) -> Tokenizer:
    """Return a SentencePiece BPE tokenizer. Tokens that are matched before BPE become control pieces."""
    from tokenizers import AddedToken  # noqa: PLC0415 - as above

    from kept.checkpoint.sentencepiece import tokenizer_of  # noqa: PLC0415 - as above
    from kept.checkpoint.sentencepiece_model import Piece, PieceKind, SentencePieceModel  # noqa: PLC0415 - as above

    unknown = vocabulary.id_of("unknown")
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
    kinds = {
        UNKNOWN: PieceKind.CONTROL,
        CONTROL: PieceKind.CONTROL,
        USER_DEFINED: PieceKind.CONTROL,
        BYTE: PieceKind.BYTE,
    }
    pieces = [
        Piece(text, score, PieceKind.UNKNOWN if at == unknown else kinds.get(kind, PieceKind.NORMAL))
        for at, (text, score, kind) in enumerate(
            zip(vocabulary.tokens, vocabulary.scores, vocabulary.kinds, strict=True)
        )
    ]
    if unknown is None:
        raise CheckpointError("tokenizer.ggml.unknown_token_id: is not the id of a token")
    if sum(len(text) ** 2 for text in vocabulary.tokens) > MOST_SPLITS:
        raise CheckpointError("tokenizer.ggml.tokens: are too long for SentencePiece; fetch the file again")
    model = SentencePieceModel(
        pieces=tuple(pieces),
        algorithm="BPE",
        byte_fallback={*vocabulary.of(BYTE)} >= bytes_,
        space_is_suffix=False,
        charsmap=b"",
        dummy_prefix=vocabulary.flag("add_space_prefix", default=True),
        trim=False,
        escape=True,
        denormalizes=False,
    )
    tokenizer = tokenizer_of(model)
    stripped = _right_stripped(vocabulary)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, rstrip=True) for text in stripped])
    return tokenizer


def _right_stripped(vocabulary: GgufVocabulary) -> list[str]:
    """Return special tokens that absorb the white space after them. llama.cpp has them for Phi-3, by model name."""
    name = str(vocabulary.metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return []
    special = {*vocabulary.of(CONTROL, USER_DEFINED, UNKNOWN), "</s>"} - {"<unk>", "<s>", "<|endoftext|>"}
    return [text for text in vocabulary.tokens if text in special]


def _add_post_processor(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Add BOS and EOS around each text, as llama.cpp does."""
    from tokenizers import processors  # noqa: PLC0415 - as above

    bos, eos = _added_ids(vocabulary)
    first, last = ([vocabulary.tokens[at]] if at is not None else [] for at in (bos, eos))
    single, second = ([f"{item}:{at}" for item in (*first, text, *last)] for at, text in enumerate(("$A", "$B")))
    special = sorted({(vocabulary.tokens[at], at) for at in (bos, eos) if at is not None})
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(single, single + second, special)


def _added_ids(vocabulary: GgufVocabulary) -> tuple[int | None, int | None]:
    """Return the ids of the tokens added before and after each text; None for no token."""
    pre = None if vocabulary.model == "llama" else _pre_tokenizer(vocabulary)
    first = vocabulary.flag("add_bos_token", default=pre is None or pre.add_bos)
    last = vocabulary.flag("add_eos_token", default=False)
    return vocabulary.id_of("bos") if first else None, vocabulary.id_of("eos") if last else None


def _config(vocabulary: GgufVocabulary, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokenizer_config.json of the fast tokenizer."""
    bos, eos = _added_ids(vocabulary)
    ids = {setting: vocabulary.id_of(name) for setting, name in NAMED.items()}
    template = _template(vocabulary.metadata)
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{setting: vocabulary.tokens[at] for setting, at in ids.items() if at is not None},
        "add_bos_token": bos is not None,
        "add_eos_token": eos is not None,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **({"chat_template": template} if template else {}),
        "added_tokens_decoder": {
            str(token["id"]): {flag: token[flag] for flag in flags} for token in content["added_tokens"]
        },
    }


def _template(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    """Return the chat template, a list of named templates if there are several, or None."""
    named = {
        key.removeprefix(f"{TEMPLATE}.") if key != TEMPLATE else DEFAULT: text
        for key, text in metadata.items()
        if (key == TEMPLATE or key.startswith(f"{TEMPLATE}.")) and isinstance(text, str)
    }
    odd = next((name for name, text in named.items() if len(text) > LONGEST), None)
    if odd is not None:
        raise CheckpointError(f"{TEMPLATE}: {odd[:60]!r} has more than {LONGEST} characters")
    if [*named] == [DEFAULT]:
        return str(named[DEFAULT])
    return [{"name": name, "template": text} for name, text in named.items()] or None

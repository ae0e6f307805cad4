"""Train a BPE tokenizer on new text, optionally compatible with a model's tokenizer for merging."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import to_json
from kept.checkpoint.output_path import check_apart
from kept.checkpoint.sentencepiece import SPACE
from kept.checkpoint.staging import staging
from kept.checkpoint.tokenizer_reader import FencedTokenizer
from kept.distillation.data.documents import TextSource
from kept.errors import InputError
from kept.loaded import small_files
from kept.reporting import Progress, reporter_of
from kept.settings_model import check_choice
from kept.tokenizer.bpe import BYTE_LEVEL, CHARACTERS, Bpe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tokenizers import Tokenizer

KINDS = (BYTE_LEVEL, CHARACTERS)

UNKNOWN, BEGIN, END = SPECIAL = ("<unk>", "<s>", "</s>")

SMALLEST = 260
"""Smallest vocabulary: special tokens and all bytes."""

LARGEST = 1 << 22
"""Largest vocabulary: `tokenizers` allocates memory for it before training."""

RARE = 2
"""Divisor of the vocabulary size that gives the maximum number of single characters; rarer ones are bytes."""


@dataclass(frozen=True)
class TrainedTokenizer:
    """A trained tokenizer: path, kind, number of tokens, and tokens per character of the first document."""

    path: Path
    kind: str
    tokens: int
    characters: int
    per_character: float


def train_tokenizer(
    texts: Sequence[str | Path],
    out: str | Path,
    *,
    vocab_size: int = 8000,
    kind: str | None = None,
    like: str | Path | None = None,
    text_field: str = "text",
    progress: Progress = False,
) -> TrainedTokenizer:
    """Train a BPE tokenizer (arXiv 1508.07909) and write it to `out`.

    Args:
        texts: text, JSON lines or parquet files, or directories of them.
        out: the directory to write.
        vocab_size: number of tokens, bytes and special tokens included.
        kind: "byte-level", or "byte-fallback" (bytes only for rare characters). Without `like`: byte-level.
        like: a model whose normalisation, pre-tokenization and kind are used, so that the two can be merged.
        text_field: the JSON key or parquet column with the text.
        progress: True shows bars on stderr; or a `kept.Reporter`.

    Returns:
        Path, kind, number of tokens, and tokens per character of the training text.

    Raises:
        InputError: a text cannot be read, or is too short for so many tokens.
        OutputError: `out` cannot be written.

    Example:
        ```python
        kept.train_tokenizer(["corpus/korean"], "out/korean", like="path/to/llama", vocab_size=8000)
        ```
    """
    if vocab_size < SMALLEST:
        raise InputError(f"vocab_size: is {vocab_size}, it must be at least {SMALLEST}: every byte is a token")
    if vocab_size > LARGEST:
        raise InputError(f"vocab_size: is {vocab_size}, it must be at most {LARGEST}")
    if like is not None and kind is not None:
        raise InputError("kind: is that of the model; leave out kind, or like")
    if kind is not None:
        check_choice("kind", kind, KINDS)
    directory = None if like is None else small_files(like)
    model = None if directory is None else Bpe.read(directory)
    kind = (kind or BYTE_LEVEL) if model is None else model.kind
    source = TextSource(tuple(map(Path, texts)), text_field)
    total = sum(file.nbytes for file in source.files())
    read = {f"text {number}": Path(one) for number, one in enumerate(texts, 1)}
    check_apart(Path(out), read if directory is None else {**read, "the model": directory})
    with staging(Path(out), {"texts": [*map(str, texts)], "vocab_size": vocab_size, "kind": kind}) as stage:
        with reporter_of(progress).stage("train", total, "bytes") as advance:
            made = _train(_documents(source, advance), kind, vocab_size, model)
        stage.write("tokenizer.json", to_json(made))
        stage.write("tokenizer_config.json", to_json(SETTINGS))
        characters, tokens = _measured(Path(out), made, source)
        stage.publish()
    return TrainedTokenizer(Path(out), kind, len(made["model"]["vocab"]), characters, tokens / characters)


SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": BEGIN,
    "eos_token": END,
    "unk_token": UNKNOWN,
    "clean_up_tokenization_spaces": False,
}


def _documents(source: TextSource, advance: Callable[[int], None]) -> Iterator[str]:
    for document in source.documents():
        yield document.text
        advance(document.nbytes)


def _train(texts: Iterator[str], kind: str, vocab_size: int, like: Bpe | None) -> dict[str, Any]:
    """Train a tokenizer and return its JSON. Raises InputError if the text has too few pairs.

    With `like`, the words come from that model's tokenizer, which runs in a fenced process.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: PLC0415 - only where one is trained

    names = [f"<0x{byte:02X}>" for byte in range(256)] if kind == CHARACTERS else []
    learner = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True, byte_fallback=kind == CHARACTERS))
    shape = _stand_alone(kind)
    if like is None:
        if shape.normalizer is not None:
            learner.normalizer = shape.normalizer
        learner.pre_tokenizer = _words(shape)
    learning: dict[str, Any] = {"vocab_size": vocab_size, "special_tokens": [*SPECIAL, *names], "show_progress": False}
    if kind == BYTE_LEVEL:
        learning["initial_alphabet"] = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        learning["limit_alphabet"] = (vocab_size - len(names)) // RARE
    words = texts if like is None else like.tokenizer.words(texts, SPACE)
    learner.train_from_iterator(words, trainers.BpeTrainer(**learning))
    if learner.get_vocab_size() < vocab_size:
        most = learner.get_vocab_size()
        less = f", or --vocab-size {most}" if most >= SMALLEST else ""
        raise InputError(f"vocab_size: is {vocab_size}, the text has pieces for {most} tokens; give more text{less}")
    made: dict[str, Any] = json.loads(learner.to_str())
    shaped = json.loads(shape.to_str()) if like is None else like.document
    return {
        **made,
        "added_tokens": [token for token in made["added_tokens"] if token["content"] in SPECIAL],
        **{part: shaped[part] for part in ("normalizer", "pre_tokenizer", "decoder")},
    }


def _words(shape: Tokenizer) -> Any:  # noqa: ANN401 - a pre-tokenizer
    """Return the pre-tokenizer for training, which also splits at spaces, so that no piece spans two words."""
    from tokenizers import pre_tokenizers  # noqa: PLC0415 - only where one is trained

    spaces = pre_tokenizers.Split(SPACE, "merged_with_next")
    if shape.pre_tokenizer is None:
        return spaces
    return pre_tokenizers.Sequence([shape.pre_tokenizer, spaces])


def _stand_alone(kind: str) -> Tokenizer:
    """Return a tokenizer with the default normalizer, pre-tokenizer and decoder of a kind."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: PLC0415

    made = Tokenizer(models.BPE())
    if kind == BYTE_LEVEL:
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        return made
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def _measured(out: Path, made: dict[str, Any], source: TextSource) -> tuple[int, int]:
    """Return the number of characters and tokens of the first document."""
    text = next(document.text for document in source.documents())
    (ids,) = FencedTokenizer(out, json.dumps(made)).encode([text], special=False)
    return len(text), len(ids)

"""Run a tokenizer. These classes run in a fenced process, because a tokenizer file is untrusted.

A chain of replacements in its normalizer can grow one character to gigabytes, and its regular expressions can take
unbounded time. The rest of the program uses `tokenizer_reader.TokenizerReader`, which calls this process.
"""

from __future__ import annotations

from array import array
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, pre_tokenizers

from kept.checkpoint.file_names import TIKTOKEN
from kept.errors import CheckpointError, KeptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tokenizers import Encoding

Columns = tuple[list[int], bytes]
"""The number of tokens of each text, and int32 columns over the tokens of all texts, concatenated as bytes."""


class TokenizerWorker:
    """The tokenizer in a `tokenizer.json`, or built from a `tokenizer.model` or `qwen.tiktoken`.

    `document` is the text of a `tokenizer.json` to use in place of the file. Raises CheckpointError naming the file if
    it is not a tokenizer.
    """

    def __init__(self, file: str, document: str | None = None) -> None:
        self._file = Path(file)
        with damaged(self._file, "is not a tokenizer"):
            self._tokenizer = load(self._file) if document is None else Tokenizer.from_str(document)

    def ready(self) -> None:
        """Do nothing: the first call to the process constructs the tokenizer, and fails if it cannot."""

    def encode(self, texts: Sequence[str], special: bool) -> Columns:  # noqa: FBT001 - Worker.call passes positional arguments
        """Return the ids of texts; `special` adds the special tokens of the post-processor, such as BOS."""
        with self._reading():
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=special)
            return _columns(found, lambda one: one.ids)

    def encode_with_places(self, texts: Sequence[str], special: bool) -> Columns:  # noqa: FBT001 - the same
        """Return four columns: ids, first character, one past the last character, and 1 for an added special token."""
        with self._reading():
            found = self._tokenizer.encode_batch(texts, add_special_tokens=special)
            places = [array("i", chain.from_iterable(one.offsets)) for one in found]
            starts, ends = (b"".join(one[at::2].tobytes() for one in places) for at in (0, 1))
            sizes, ids = _columns(found, lambda one: one.ids)
            return sizes, ids + starts + ends + _columns(found, lambda one: one.special_tokens_mask)[1]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        with damaged(self._file, "cannot decode ids"):
            text: str = self._tokenizer.decode(ids)
        return text

    def vocabulary(self) -> dict[str, int]:
        """Return the ids of all tokens by text, added tokens included."""
        found: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return found

    def document(self) -> tuple[None, bytes]:
        """Return the tokenizer as a `tokenizer.json`, serialised by the installed `tokenizers`."""
        return None, self._tokenizer.to_str().encode()

    def words(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the pre-tokenizer's words of each text, before merges."""
        with self._reading():
            return [self._words(text) for text in texts]

    def words_between(self, texts: Sequence[str], mark: str) -> list[list[str]]:
        """Return the words of each text, split before each `mark` too."""
        split = pre_tokenizers.Split(mark, "merged_with_next")
        with self._reading():
            return [[part for word in self._words(t) for part, _ in split.pre_tokenize_str(word)] for t in texts]

    def parts(self, tokens: Sequence[str], plain: Sequence[bool]) -> list[list[int]]:
        """Return the ids of each token's text: by the BPE model alone if `plain`, else by the whole pipeline."""
        with damaged(self._file, "cannot encode a token"):
            return [self._ids(token, plain=one) for token, one in zip(tokens, plain, strict=True)]

    def _ids(self, token: str, *, plain: bool) -> list[int]:
        if plain:
            return [part.id for part in self._tokenizer.model.tokenize(token)]
        ids: list[int] = self._tokenizer.encode(token, add_special_tokens=False).ids
        return ids

    def _words(self, text: str) -> list[str]:
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        normalised: str = text if normalizer is None else normalizer.normalize_str(text)
        return [normalised] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(normalised)]

    def _reading(self) -> Any:  # noqa: ANN401 - a context
        return damaged(self._file, "cannot encode a text")


class TokenizerBuilder:
    """Builds the fast tokenizer of a directory with a `tokenizer.model` or `qwen.tiktoken`."""

    def files(self, directory: str) -> dict[str, str]:
        """Return the texts of `tokenizer.json` and `tokenizer_config.json`, by file name."""
        from kept.checkpoint.sentencepiece_files import tokenizer_files  # noqa: PLC0415 - imported for this format only
        from kept.checkpoint.tiktoken import tiktoken_files  # noqa: PLC0415 - the same

        folder = Path(directory)
        built: Mapping[str, bytes] = (
            tokenizer_files(folder) if (folder / "tokenizer.model").is_file() else tiktoken_files(folder)
        )
        return {name: content.decode() for name, content in built.items()}


@contextmanager
def damaged(file: Path, what: str) -> Iterator[None]:
    """Raise CheckpointError naming the file for any error of `tokenizers`; a Rust panic is only a BaseException."""
    try:
        yield
    except (KeptError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # KeyboardInterrupt and the like
        raise CheckpointError(f"{file}: {what} ({error}); fetch it again") from None


def load(file: Path) -> Tokenizer:
    """Return the tokenizer of a file in any of the formats, without truncation and padding."""
    if file.name == "tokenizer.model":
        from kept.checkpoint.sentencepiece import fast_tokenizer  # noqa: PLC0415 - imported for this format only

        return fast_tokenizer(file)
    if file.name == TIKTOKEN:
        from kept.checkpoint.tiktoken import tiktoken_tokenizer  # noqa: PLC0415 - the same

        return tiktoken_tokenizer(file)
    made = Tokenizer.from_buffer(file.read_bytes())  # Tokenizer.from_file needs a path that is valid UTF-8
    # Some checkpoints store settings for batches; texts here are encoded whole.
    made.no_truncation()
    made.no_padding()
    return made


def _columns(found: Sequence[Encoding], column: Callable[[Encoding], Sequence[int]]) -> Columns:
    parts = [array("i", column(one)) for one in found]
    return [len(part) for part in parts], b"".join(part.tobytes() for part in parts)

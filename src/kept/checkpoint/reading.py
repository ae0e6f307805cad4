"""A tokenizer at work, in a fenced process: its file says how a text is rewritten and cut, and may ask for anything.

A few steps that replace a letter by two make gigabytes of one character; a pattern may take longer than the universe.
`kept.verification.text.Reader` is what the rest of the program sees of it.
"""

from __future__ import annotations

from array import array
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, pre_tokenizers

from kept.checkpoint.companions import TIKTOKEN
from kept.errors import CheckpointError, KeptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tokenizers import Encoding

Columns = tuple[list[int], bytes]
"""How many tokens each of several texts has, and of all of them the columns of int32 that were asked for, one behind
another."""


class Reading:
    """The tokenizer in a `tokenizer.json`, or built from a `tokenizer.model` or `qwen.tiktoken`.

    `document` is the text of a `tokenizer.json` in the file's place. Raises CheckpointError naming the file where it is
    none.
    """

    def __init__(self, file: str, document: str | None = None) -> None:
        self._file = Path(file)
        with damaged(self._file, "is no tokenizer"):
            self._tokenizer = load(self._file) if document is None else Tokenizer.from_str(document)

    def ready(self) -> None:
        """It is made."""

    def encode(self, texts: Sequence[str], special: bool) -> Columns:  # noqa: FBT001 - a call has no names
        """Ids of texts, with the tokens that the tokenizer puts around each if `special`."""
        with self._reading():
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=special)
            return _columns(found, lambda one: one.ids)

    def encode_with_places(self, texts: Sequence[str], special: bool) -> Columns:  # noqa: FBT001 - the same
        """Ids, then for each token the first of its characters, one past the last, and 1 where it was put around."""
        with self._reading():
            found = self._tokenizer.encode_batch(texts, add_special_tokens=special)
            places = [array("i", chain.from_iterable(one.offsets)) for one in found]
            starts, ends = (b"".join(one[at::2].tobytes() for one in places) for at in (0, 1))
            sizes, ids = _columns(found, lambda one: one.ids)
            return sizes, ids + starts + ends + _columns(found, lambda one: one.special_tokens_mask)[1]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        with damaged(self._file, "fails to write a text"):
            text: str = self._tokenizer.decode(ids)
        return text

    def vocabulary(self) -> dict[str, int]:
        """Ids of all tokens."""
        found: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return found

    def document(self) -> tuple[None, bytes]:
        """The tokenizer as `tokenizers` writes it now."""
        return None, self._tokenizer.to_str().encode()

    def words(self, texts: Sequence[str]) -> list[list[str]]:
        """The parts that each text is cut into, before any are merged."""
        with self._reading():
            return [self._words(text) for text in texts]

    def words_between(self, texts: Sequence[str], mark: str) -> list[list[str]]:
        """The same, cut before each `mark` too."""
        split = pre_tokenizers.Split(mark, "merged_with_next")
        with self._reading():
            return [[part for word in self._words(t) for part, _ in split.pre_tokenize_str(word)] for t in texts]

    def parts(self, tokens: Sequence[str], plain: Sequence[bool]) -> list[list[int]]:
        """Ids of tokens: of a plain one by the model alone, of another as of any text."""
        with damaged(self._file, "fails to read a token"):
            return [self._ids(token, plain=one) for token, one in zip(tokens, plain, strict=True)]

    def _ids(self, token: str, *, plain: bool) -> list[int]:
        if plain:
            return [part.id for part in self._tokenizer.model.tokenize(token)]
        ids: list[int] = self._tokenizer.encode(token, add_special_tokens=False).ids
        return ids

    def _words(self, text: str) -> list[str]:
        rewriting, cutting = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        normalised: str = text if rewriting is None else rewriting.normalize_str(text)
        return [normalised] if cutting is None else [word for word, _ in cutting.pre_tokenize_str(normalised)]

    def _reading(self) -> Any:  # noqa: ANN401 - a context
        return damaged(self._file, "fails to read a text")


class Building:
    """Builds what an output has beside its `tokenizer.model` or `qwen.tiktoken`."""

    def files(self, directory: str) -> dict[str, str]:
        """`tokenizer.json` and `tokenizer_config.json` of a directory, by name."""
        from kept.checkpoint.sentencepiece import tokenizer_files  # noqa: PLC0415 - only where it is one
        from kept.checkpoint.tiktoken import tiktoken_files  # noqa: PLC0415 - the same

        folder = Path(directory)
        built: Mapping[str, bytes] = (
            tokenizer_files(folder) if (folder / "tokenizer.model").is_file() else tiktoken_files(folder)
        )
        return {name: content.decode() for name, content in built.items()}


@contextmanager
def damaged(file: Path, what: str) -> Iterator[None]:
    """Blame the file for whatever `tokenizers` raises: Exception itself, and where it panics, BaseException."""
    try:
        yield
    except (KeptError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interruption
        raise CheckpointError(f"{file}: {what} ({error}); fetch it again") from None


def load(file: Path) -> Tokenizer:
    """The tokenizer of a file, whatever its format."""
    if file.name == "tokenizer.model":
        from kept.checkpoint.sentencepiece import fast_tokenizer  # noqa: PLC0415 - only where it is one

        return fast_tokenizer(file)
    if file.name == TIKTOKEN:
        from kept.checkpoint.tiktoken import tiktoken_tokenizer  # noqa: PLC0415 - the same

        return tiktoken_tokenizer(file)
    made = Tokenizer.from_buffer(file.read_bytes())  # a path may be no text
    # Stored with some checkpoints, for batches: a text is read as it is.
    made.no_truncation()
    made.no_padding()
    return made


def _columns(found: Sequence[Encoding], column: Callable[[Encoding], Sequence[int]]) -> Columns:
    parts = [array("i", column(one)) for one in found]
    return [len(part) for part in parts], b"".join(part.tobytes() for part in parts)

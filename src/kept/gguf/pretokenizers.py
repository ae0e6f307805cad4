"""llama.cpp's pre-tokenizers for byte-level BPE, by the name in `tokenizer.ggml.pre`.

Each is a list of patterns that are applied in turn; the matches of a pattern and the text between them become separate
words. The patterns are those of `llm_tokenizer_bpe` in llama.cpp's src/llama-vocab.cpp, so that ids agree with
llama.cpp. For `tekken` and `gpt-4o` it uses a simpler pattern than the original tokenizer, with other results outside
ASCII.
"""

from __future__ import annotations

from dataclasses import dataclass

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's pattern."""

SHORT = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
"""English contractions, upper or lower case."""

SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
"""Line breaks and white space; the end of several patterns."""

LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
"""Llama 3's pattern, with up to three digits per word."""

QWEN2 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
"""Qwen 2's pattern, with one digit per word."""

TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+{tail}"
    r"|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*{tail}"
    r"|{digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
)
"""The pattern of `tekken` and `gpt-4o`, which splits a word before a capital that follows small letters."""

SENTENCES = r" ?[^(\s|.,!?…。，、।۔،)]+"  # noqa: RUF001 - full stops and commas of other scripts

DIGIT = r"\p{N}"

DEEPSEEK_EXCLUDED = (
    r"\x{560}-\x{588}\x{10C7}-\x{10FF}\x{1C80}-\x{1C88}\x{2D00}-\x{2D2D}\x{A790}-\x{A7FA}\x{AB30}-\x{AB5A}"
    r"\x{AB60}-\x{AB68}\x{10570}-\x{105BC}\x{16E40}-\x{16E7F}\x{1D400}-\x{1DF1E}"
)
"""Cased letters that DeepSeek's list lacks: Armenian lower case, Georgian, mathematical and newer letters."""

DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")
"""llama.cpp's patterns for a file that names no pre-tokenizer."""


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer: its patterns, and two defaults of the tokenizers that use it.

    `ignore_merges` means that a word in the vocabulary is one token, whatever its merges. `add_bos` means that texts
    begin with BOS by default.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


def _named(pre_tokenizer: PreTokenizer, *names: str) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names, pre_tokenizer)


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **_named(PreTokenizer(DEFAULT), "default", ""),
    **_named(
        PreTokenizer((LLAMA3,), ignore_merges=True, add_bos=True),
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0"),
    ),
    **_named(PreTokenizer((LLAMA3,)), "dbrx", "smaug-bpe", "chatglm-bpe"),
    **_named(
        PreTokenizer((WORDS,)),
        *("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "mpt", "olmo", "jais", "trillion"),
    ),
    **_named(
        PreTokenizer((DIGIT, WORDS)),
        *("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
    ),
    **_named(PreTokenizer((QWEN2,)), "qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2"),
    **_named(PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", WORDS, r"[0-9][0-9][0-9]")), "falcon"),
    **_named(
        PreTokenizer(
            (
                r"[\r\n]",
                r"\s?[\p{Lu}\p{Ll}\p{Lt}&&[^" + DEEPSEEK_EXCLUDED + "]]+",
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",  # noqa: RUF001 - full-width punctuation
                r"\s+$",
                r"[一-龥ࠀ-一가-퟿]+",
                r"\p{N}+",
            )
        ),
        "deepseek-llm",
    ),
    **_named(PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", DIGIT)), "deepseek-coder"),
    **_named(PreTokenizer((SENTENCES,)), "poro-chat", "bloom", "gpt3-finnish"),
    **_named(PreTokenizer((SENTENCES, DIGIT)), "viking"),
    **_named(
        PreTokenizer((TEKKEN.replace("{tail}", "").replace("{digits}", DIGIT),), ignore_merges=True, add_bos=True),
        "tekken",
    ),
    **_named(
        PreTokenizer((TEKKEN.replace("{tail}", SHORT + "?").replace("{digits}", r"\p{N}{1,3}"),)),
        *("gpt-4o", "llama4", "kanana2"),
    ),
}
"""The known pre-tokenizers by name; `""` stands for a file without a name."""

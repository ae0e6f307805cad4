"""How llama.cpp cuts a text into words before byte-level BPE, by the name that a GGUF file gives for it.

Each name stands for patterns that are applied one after another; what a pattern finds and what is between are words of
their own. The patterns are those that llama.cpp runs (`llm_tokenizer_bpe` in its src/llama-vocab.cpp), so that ids are
its own; of `tekken` and `gpt-4o` it runs a simpler form than the original, which differs beyond ASCII.
"""

from __future__ import annotations

from dataclasses import dataclass

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's."""

SHORT = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
"""English contractions in either case."""

SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

THREES = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
"""Llama 3's: digits in threes."""

ONES = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
"""Qwen 2's: digits alone."""

CASED = (
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+{tail}"
    r"|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*{tail}"
    r"|{digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
)
"""Words whose capitals come first."""

SENTENCES = r" ?[^(\s|.,!?…。，、।۔،)]+"  # noqa: RUF001 - full stops and commas of other scripts

DIGIT = r"\p{N}"

UNCASED = (
    r"\x{560}-\x{588}\x{10C7}-\x{10FF}\x{1C80}-\x{1C88}\x{2D00}-\x{2D2D}\x{A790}-\x{A7FA}\x{AB30}-\x{AB5A}"
    r"\x{AB60}-\x{AB68}\x{10570}-\x{105BC}\x{16E40}-\x{16E7F}\x{1D400}-\x{1DF1E}"
)
"""Letters with a case that DeepSeek's list does not have: Armenian small ones, Georgian, mathematical, newer ones."""

DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")


@dataclass(frozen=True)
class PreTokenizer:
    """Patterns; whether a word that is a token is one whatever its merges; whether texts begin with bos by default."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


def _named(pre_tokenizer: PreTokenizer, *names: str) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names, pre_tokenizer)


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **_named(PreTokenizer(DEFAULT), "default", ""),
    **_named(
        PreTokenizer((THREES,), ignore_merges=True, add_bos=True),
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0"),
    ),
    **_named(PreTokenizer((THREES,)), "dbrx", "smaug-bpe", "chatglm-bpe"),
    **_named(
        PreTokenizer((WORDS,)),
        *("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "mpt", "olmo", "jais", "trillion"),
    ),
    **_named(
        PreTokenizer((DIGIT, WORDS)),
        *("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
    ),
    **_named(PreTokenizer((ONES,)), "qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2"),
    **_named(PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", WORDS, r"[0-9][0-9][0-9]")), "falcon"),
    **_named(
        PreTokenizer(
            (
                r"[\r\n]",
                r"\s?[\p{Lu}\p{Ll}\p{Lt}&&[^" + UNCASED + "]]+",
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
        PreTokenizer((CASED.replace("{tail}", "").replace("{digits}", DIGIT),), ignore_merges=True, add_bos=True),
        "tekken",
    ),
    **_named(
        PreTokenizer((CASED.replace("{tail}", SHORT + "?").replace("{digits}", r"\p{N}{1,3}"),)),
        *("gpt-4o", "llama4", "kanana2"),
    ),
}
"""Every way that is known, by name; `""` is where a file gives none."""

"""Compare kept's reading of GGUF files with llama.cpp.

python compat/gguf_files.py [--golden]    `make compat` runs it; --golden also writes the ids that the tests check

Families: llama.cpp's converter writes a GGUF file from each tiny checkpoint; reading the file must give the facts and
weights of the checkpoint. Tokens: for every pre-tokenizer, for SentencePiece, and for SmolLM2 if `make smollm2` has
fetched it, the rebuilt tokenizer must give llama.cpp's ids on fixed and on random texts. Exit code 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from typing import TYPE_CHECKING, Any

from environments import LLAMA_CPP, with_llama_cpp
from forms import ROOT, write_checkpoint

from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.demo import model_path
from kept.errors import KeptError
from kept.families import FAMILIES
from kept.gguf.pretokenizers import PRE_TOKENIZERS
from kept.ir.facts import facts
from kept.loaded import open_model

from support import gguf_vocabularies, ggufs  # isort: skip - `forms` adds the tests to the path
from support.logits import program_of  # isort: skip - as above

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from environments import Environment

HERE = ROOT / "compat"

SMOLLM2 = ROOT / "out" / "SmolLM2-135M-Instruct.Q4_1.gguf"

GOLDENS = ROOT / "tests" / "goldens"

RANDOM = 500
"""Number of random texts."""

FORMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "command-r": ("cohere", {"use_qk_norm": True}),
    "deci": ("deci", {}),
    "exaone": ("exaone", {}),
    "falcon": ("falcon", {"rope_theta": 10000.0, "max_position_embeddings": 2048}),
    "falcon, one norm": (
        "falcon",
        {"rope_theta": 10000.0, "max_position_embeddings": 2048, "num_ln_in_parallel_attn": 1},
    ),
    "gemma": ("gemma", {"rope_theta": 10000.0}),
    "gemma2": ("gemma2", {"rope_theta": 10000.0, "query_pre_attn_scalar": 16}),
    "gpt2": ("gpt2", {"n_ctx": 128}),
    "granite": ("granite", {}),
    "internlm2": ("internlm2", {}),
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "head_dim": 64,
        },
    ),
    "minicpm": ("minicpm", {}),
    "mistral": ("mistral", {}),
    "nemotron": ("nemotron", {"attention_bias": True}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "orion": ("orion", {"rope_theta": 10000.0}),
    "phi3": ("phi3", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 4, "num_hidden_layers": 4}),
    "stablelm": ("stablelm", {"rope_theta": 10000.0, "use_parallel_residual": True, "use_qkv_bias": True}),
    "starcoder2": ("starcoder2", {}),
    "xverse": ("xverse", {"num_key_value_heads": 4}),
}
"""Family and config of each converted form. Keys that the converter does not write have their usual value.

Left out because this converter fails on them, at least as transformers 5 writes them: baichuan, gptneox, phi2, qwen.
"""


def main() -> int:
    """Run both comparisons; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", action="store_true", help="write the ids into tests/goldens")
    golden = parser.parse_args().golden
    folder = ROOT / "out" / "compat"
    environment, work = with_llama_cpp(folder), folder / "gguf"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    wrong = [*_families(environment, work), *_tokens(environment, work, golden=golden)]
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    print(f"{len(FORMS)} families, {len(PRE_TOKENIZERS)} pre-tokenizers: {len(wrong)} differ")
    return 1 if wrong else 0


# -------------------------------------------------------------------------------------------------------- families


def _families(environment: Environment, work: Path) -> Iterator[str]:
    """Yield a line for each family whose GGUF file fails or differs from its checkpoint."""
    made = {name: _checkpoint(work / name.replace(", ", "-"), *FORMS[name]) for name in FORMS}
    done = environment.run(HERE / "gguf_convert.py", environment.converter, *made.values())
    failed = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    if done.returncode:
        raise SystemExit(done.stderr)
    for name, directory in made.items():
        said = failed.get(str(directory)) or _difference(directory)
        if said:
            yield f"{name}: {said}"


def _checkpoint(directory: Path, family: str, config: Mapping[str, Any]) -> Path:
    """Write a tiny checkpoint whose config has the keys that the converter needs."""
    write_checkpoint(directory, family, **config)
    file = directory / "config.json"
    stated = json.loads(file.read_text(encoding="utf-8"))
    stated.setdefault("architectures", [FAMILIES[family].architecture])
    file.write_text(json.dumps({**stated, **({"n_ctx": config["n_ctx"]} if "n_ctx" in config else {})}))
    return directory


def _difference(directory: Path) -> str:
    before = program_of(directory)
    try:
        after = open_model(directory.with_name(f"{directory.name}.gguf")).program
    except KeptError as error:
        return str(error)
    wanted, found = facts(before.spec), facts(after.spec)
    keys = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k) and not k.startswith("tokens."))
    if keys:
        return f"{keys[0]} is {found.get(keys[0])}, it was {wanted.get(keys[0])}"
    off = {slot: float((after.weights[slot].value() - one.value()).abs().max()) for slot, one in before.weights.items()}
    slot = max(off, key=off.__getitem__)
    return f"{slot} is off by {off[slot]:.1g}" if off[slot] > 1e-6 else ""


# ---------------------------------------------------------------------------------------------------------- tokens


def _tokens(environment: Environment, work: Path, *, golden: bool) -> Iterator[str]:
    """Yield a line for each vocabulary whose ids differ from llama.cpp's."""
    files = _vocabularies(work)
    texts = [*gguf_vocabularies.TEXTS, *_random_texts()]
    (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    done = environment.run(HERE / "gguf_tokens.py", work / "texts.json", work / "ids.json", *files.values())
    if done.returncode:
        raise SystemExit(done.stderr)
    ids = json.loads((work / "ids.json").read_text(encoding="utf-8"))
    for name, file in files.items():
        wanted = ids[str(file)]
        reader = TokenizerReader(open_model(file).path)
        found = [reader.encode(text, special=False) for text in texts]
        differ = [number for number, text in enumerate(texts) if found[number] != wanted[number]]
        if differ:
            first = differ[0]
            yield f"{name}: {len(differ)} of {len(texts)}: {texts[first]!r}: {found[first]}, not {wanted[first]}"
        if reader.encode(texts[0]) != wanted[-1]:
            yield f"{name}: begins with {reader.encode(texts[0])[:2]}, not {wanted[-1][:2]}"
    if golden:
        _write_goldens({name: ids[str(file)] for name, file in files.items()})


def _vocabularies(work: Path) -> dict[str, Path]:
    """Write a GGUF file for each pre-tokenizer and two for SentencePiece; return them and SmolLM2's by name."""
    small, pieces = gguf_vocabularies.byte_level(), gguf_vocabularies.sentencepiece(model_path() / "tokenizer.model")
    files = {
        name: ggufs.with_tokenizer(work / f"tokens-{number}.gguf", small, ggml__pre=name)
        for number, name in enumerate(PRE_TOKENIZERS)
        if name
    }
    files["sentencepiece"] = ggufs.with_tokenizer(work / "pieces.gguf", pieces)
    files["sentencepiece, no prefix"] = ggufs.with_tokenizer(work / "bare.gguf", pieces, ggml__add_space_prefix=False)
    return {**files, **({"smollm2": SMOLLM2} if SMOLLM2.is_file() else {})}


def _random_texts() -> Iterator[str]:
    choose = random.Random(0)  # noqa: S311 - seeded: the same texts each time
    special = (*gguf_vocabularies.CONTROLS, *gguf_vocabularies.USERS)
    for number in range(RANDOM):
        count = choose.randrange(1, 40)
        yield "".join(
            choose.choice(special) if not number % 5 and choose.random() < 0.3 else _letter(choose)
            for _ in range(count)
        )


def _letter(choose: random.Random) -> str:
    """Return a random character; common ones are more likely."""
    ranges = (
        *((0x20, 0x7F),) * 6,
        *((0x09, 0x0E), (0x00, 0x20), (0xA0, 0x250), (0x370, 0x600), (0x600, 0x3000), (0x3000, 0x30FF)),
        *((0x4E00, 0x9FA5), (0xAC00, 0xD7A4), (0xE000, 0xFFFE), (0x1F300, 0x1FAFF), (0x20000, 0x110000)),
    )
    return chr(choose.randrange(*choose.choice(ranges)))


def _write_goldens(ids: Mapping[str, list[list[int]]]) -> None:
    """Write llama.cpp's ids of the fixed texts into tests/goldens."""
    said = f"python compat/gguf_files.py --golden, with {LLAMA_CPP}"
    real = ids.get("smollm2")
    if real is not None:
        table = {"made by": said, "texts": dict(zip(gguf_vocabularies.TEXTS, real, strict=False))}
        (GOLDENS / "smollm2-ids.json").write_text(
            json.dumps(table, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
        )
    alike = {pre: name for name, pre in reversed(PRE_TOKENIZERS.items())}
    kept = [name for name in ids if name in alike.values() or name.startswith("sentencepiece")]
    table = {
        "made by": said,
        "ids": {name: [*ids[name][: len(gguf_vocabularies.TEXTS)], ids[name][-1]] for name in kept},
    }
    (GOLDENS / "gguf-ids.json").write_text(json.dumps(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

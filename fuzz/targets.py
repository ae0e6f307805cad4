"""Fuzz targets: each puts bytes into a checkpoint or a recipe, and only KeptError may be raised.

Hypothesis runs the targets for seconds in tests/test_fuzz.py, atheris for as long as `make fuzz` is told to. Both hand
over bytes; `material` makes them either a file as it is or changes to a good one, so that deep keys are reached.
"""

from __future__ import annotations

import json
import struct
import tempfile
from array import array
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

import reported
from kept.checkpoint.chat_template import Template
from kept.checkpoint.companion_files import companions
from kept.checkpoint.json_file import finite, parse, read_json, to_json
from kept.checkpoint.licences import stated_licence
from kept.checkpoint.safetensors_header import read_header
from kept.checkpoint.safetensors_writer import shards
from kept.checkpoint.sentencepiece_files import tokenizer_files
from kept.checkpoint.tokenizer_worker import TokenizerBuilder, TokenizerWorker
from kept.checkpoint.weights import INDEX
from kept.commands import check, plan, verify
from kept.commands.inspect import inspect
from kept.commands.recipe_steps import load_steps
from kept.distillation.data.conversations import ConversationRenderer
from kept.distillation.data.documents import TextSource
from kept.distillation.data.mixture import parse_weights
from kept.distillation.settings import HealSettings
from kept.distillation.teacher_cache import FORMAT, TeacherCache, entry
from kept.distillation.train.choose_trainable import trainable
from kept.errors import KeptError, Refusal
from kept.evaluation import mt_bench
from kept.families import FAMILIES, TARGETS, family_of
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import zeros
from kept.ir.text import describe
from kept.loaded import open_model
from kept.nn import Model
from kept.nn.rope import inverse_frequencies
from kept.output.record import record_table
from kept.output.record_queries import expansions
from kept.pages.page import page, render
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from kept.recipe import load_recipe
from kept.reporting import Silent
from support.specs import attention_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kept.ir.spec import Spec
    from kept.loaded import LoadedModel

SMALL = 300_000
"""Parameters up to which an accepted config is also run."""

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}},
    "mistral": {"sliding_window": 32, "head_dim": 8, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
    "orion": {"rope_scaling": {"type": "linear", "factor": 2.0}, "pad_token_id": 0},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, "layer_types": ["full_attention"] * 2},
    "stablelm": {"qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5},
    "starcoder2": {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
"""Keys of a family's config that more hangs on than on the sizes."""

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

NASTY: Sequence[Any] = (
    *(None, True, False, 0, 1, 2, 3, 4, 64, -1, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -2.5, 5e-324, 1e-300, 1e300, 1.7e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "..", "../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[31m", "line\nline", "é" * 300, "1", "F32", "BF16"),
    *("linear", "dynamic", "yarn", "longrope", "su", "llama3", "proportional", "default", "silu", "sliding_attention"),
    *("AutoTokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast", "exact", "lossy", "{{ 1 }}", "cast", "centre"),
    *([], [1], [0, 4], [0, 2**62], [2**62, 2**62], [1.0] * 4, [float("inf")] * 4, ["a"], [[]], {}, {"": 1}, {"a": {}}),
    *([10**400] * 4, [True] * 4, {"rope_type": "longrope"}, {"full_attention": {"rope_type": "default"}}),
)
"""Values that a key should not have, and words that lead elsewhere."""

KEYS = (
    *(
        "rope_scaling",
        "rope_parameters",
        "rope_theta",
        "rope_type",
        "type",
        "factor",
        "original_max_position_embeddings",
    ),
    *(
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
        "short_factor",
        "long_factor",
    ),
    *("low_freq_factor", "high_freq_factor", "partial_rotary_factor", "head_dim", "layer_types", "sliding_window"),
    *("use_sliding_window", "max_window_layers", "eos_token_id", "bos_token_id", "pad_token_id", "n_inner", "passes"),
    *("__metadata__", "dtype", "shape", "data_offsets", "weight_map", "name", "mode", "biases", "tokens", "content"),
    *(
        "added_tokens_decoder",
        "additional_special_tokens",
        "auto_map",
        "tokenizer_class",
        "chat_template",
        "truncation",
    ),
)
"""Keys that a change may add."""


@dataclass(frozen=True)
class Target:
    """A fuzz target: valid files to start from, and the function that reads a changed one."""

    good: Callable[[], Sequence[Any]]
    use: Callable[[bytes], None]
    write: Callable[[Any], bytes] = to_json


def changed(value: Any, picks: Sequence[int]) -> Any:  # noqa: ANN401 - JSON
    """A copy of JSON data, changed once for each pick: a value replaced, a key added or taken away."""
    value = json.loads(json.dumps(value))
    for pick in picks:
        places = [*_places(value)]
        if not places:
            return value
        rest, at = divmod(pick, len(places))
        holder, key = places[at]
        rest, what = divmod(rest, 4)
        rest, which = divmod(rest, len(NASTY))
        nasty = deepcopy(NASTY[which])
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[KEYS[rest % len(KEYS)]] = nasty
        else:
            holder[key] = nasty
    return value


def _as_lines(rows: Any) -> bytes:  # noqa: ANN401 - JSON
    return b"\n".join(json.dumps(row).encode() for row in (rows if isinstance(rows, list) else [rows]))


def _places(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Every holder and key in JSON data."""
    for key, inner in [*(value.items() if isinstance(value, dict) else enumerate(value))]:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def material(target: Target, data: bytes) -> bytes:
    """The file that fuzzed bytes stand for."""
    kind, rest = data[:1], data[1:]
    if not kind or kind[0] % 4 == 0:
        return rest
    good = target.good()
    chosen = good[kind[0] // 4 % len(good)]
    if kind[0] % 4 == 1 or isinstance(chosen, bytes):
        return _flipped(chosen if isinstance(chosen, bytes) else target.write(chosen), rest)
    picks = [int.from_bytes(rest[at : at + 4], "little") for at in range(0, min(len(rest), 24), 4)]
    try:
        return target.write(changed(chosen, picks))
    except UnicodeEncodeError:
        return rest


def _flipped(raw: bytes, changes: bytes) -> bytes:
    """A good file with single bytes overwritten, taken away or put in."""
    out = bytearray(raw)
    for at in range(0, len(changes) - 3, 4):
        place = int.from_bytes(changes[at : at + 2], "little") % (len(out) or 1)
        match changes[at + 2] % 3:
            case 0:
                out[place : place + 1] = changes[at + 3 : at + 4]
            case 1:
                del out[place : place + changes[at + 3]]
            case 2:
                out[place:place] = changes[at + 3 : at + 4] * 3
    return bytes(out)


def run(name: str, data: bytes) -> None:
    """Run a target on fuzzed bytes. KeptError is the answer that damage deserves, of one printable line."""
    try:
        TARGETS_OF_FUZZING[name].use(material(TARGETS_OF_FUZZING[name], data))
    except KeptError as error:
        assert str(error).isprintable(), repr(error)


# --------------------------------------------------------------------------------------------------- checkpoints


def config_of(family: str) -> dict[str, Any]:
    """A good config of a family."""
    return {"model_type": family, **SIZES, **CONFIGS.get(family, {})}


def zero_program(spec: Spec) -> Program:
    """A program of zeros."""
    return Program(spec, {slot: zeros(info.shape, "F32") for slot, info in slots(spec).items()})


def write_zeros(directory: Path, config: Mapping[str, Any]) -> Path:
    """A checkpoint of zeros, without torch."""
    family = family_of(config)
    (shard,) = shards(family.write(zero_program(family.read_config(config))))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / shard.name).write_bytes(shard.header() + bytes(shard.nbytes))
    (directory / "config.json").write_bytes(to_json(dict(config)))
    return directory


@cache
def _scratch(name: str) -> Path:
    """A directory for one target, with a checkpoint in it."""
    return write_zeros(Path(tempfile.mkdtemp(prefix="kept-fuzz-")) / name, config_of("orion"))


@cache
def _header() -> dict[str, Any]:
    raw = (_scratch("header") / "model.safetensors").read_bytes()
    found: dict[str, Any] = parse(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    return found


def _with_header(header: Any) -> bytes:  # noqa: ANN401 - JSON
    text = json.dumps(header).encode()
    size = sum(tensor.nbytes for _, tensor in read_header(_scratch("header") / "model.safetensors"))
    return struct.pack("<Q", len(text)) + text + bytes(size)


def use_header(raw: bytes) -> None:
    """A weight file."""
    directory = _scratch("weights")
    (directory / "model.safetensors").write_bytes(raw)
    assert all(line.isprintable() for line in check.check(directory).damage)
    open_model(directory)


def use_index(raw: bytes) -> None:
    """An index of shards."""
    directory = _scratch("index")
    (directory / INDEX).write_bytes(raw)
    assert all(line.isprintable() for line in check.check(directory).damage)
    open_model(directory)


def use_config(raw: bytes) -> None:
    """A config: what is accepted can be described, planned, stated as JSON and run."""
    file = _scratch("config") / "config.json"
    file.write_bytes(raw)
    config = read_json(file)
    family = family_of(config)
    spec = family.read_config(config)
    describe(spec)
    check_rotation(spec)
    if sum(_count(slot.shape) for slot in slots(spec).values()) > SMALL:
        return
    write_zeros(file.parent, config)
    found = inspect(file.parent)
    json.dumps(finite([found.family, found.description, str(found.spec)]), ensure_ascii=False).encode()
    program = zero_program(spec)
    for target in TARGETS.values():
        with suppress(Refusal):
            planned = legalise(program, target.violations, Options()).program
            target.write_config(planned.spec, planned.dtype)
    Model.load(program)(torch.tensor([[0, spec.vocabulary - 1]]))


def check_rotation(spec: Spec) -> None:
    """Every angle of an accepted config is a number."""
    for rope, head in {(attention_of(layer).rope, attention_of(layer).head_dim) for layer in spec.layers}:
        if rope is None:
            continue
        for length in (1, spec.context):
            frequencies, temperature = inverse_frequencies(rope, head, length)
            assert bool(frequencies.isfinite().all()), (rope, frequencies)
            assert isfinite(temperature), (rope, temperature)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def use_record(raw: bytes) -> None:
    """The record of a conversion, as check and verify read it."""
    directory = _scratch("record")
    (directory / "kept.json").write_bytes(raw)
    check.check(directory)
    opened = open_model(directory)
    quiet = Silent()
    with suppress(KeptError):
        _claimed(opened, quiet)
    with suppress(KeptError):
        expansions(opened)
    with suppress(KeptError):
        trainable(opened.program, "new", record_table(opened.path))
    verify.altered(opened, Silent())


def _claimed(opened: LoadedModel, quiet: Silent) -> None:
    """All of verify that reads the record, without its measuring."""
    verify.claimed(opened, opened, verify.between(opened, opened, quiet).chain)


def use_documents(raw: bytes) -> None:
    """Read training data as JSON lines, with and without conversations, and as plain text."""
    directory = _scratch("documents")
    for name in ("a.jsonl", "b.txt"):
        (directory / name).write_bytes(raw)
        for source in (
            TextSource((directory / name,)),
            TextSource((directory / name,), conversations=_TALKS, field="messages"),
        ):
            with suppress(KeptError):
                assert all(one.text for one in source.documents())


_TALKS = ConversationRenderer(Template("{% for m in messages %}{{ m.content }}{% endfor %}", {}))


def use_questions(raw: bytes) -> None:
    """Read the questions and reference answers of MT-Bench."""
    data = _scratch("questions")
    (data / mt_bench.QUESTIONS).parent.mkdir(exist_ok=True)
    for name in (mt_bench.QUESTIONS, mt_bench.REFERENCES):
        (data / name).write_bytes(raw)
    mt_bench.questions(data, 3)


def use_teacher_cache(raw: bytes) -> None:
    """Open a teacher cache by its metadata."""
    directory = _scratch("cache")
    (directory / "about.json").write_bytes(raw)
    (directory / "rows.bin").write_bytes(bytes(4 * entry(8, 9).itemsize))
    TeacherCache.open(directory).require({"k": 8})


def use_report(raw: bytes) -> None:
    """The record of a conversion and of its healing, as a page; drawing is for tests/pages."""
    directory = _scratch("report")
    (directory / "kept.json").write_bytes(raw)
    _write_page(directory)


def use_evaluation(raw: bytes) -> None:
    """An evaluation, as a part of a page."""
    directory = _scratch("evaluation")
    (directory / "kept.json").write_bytes(to_json(RECORD))
    (directory / "eval.json").write_bytes(raw)
    _write_page(directory, directory / "eval.json")


def _write_page(directory: Path, *evaluations: Path) -> None:
    made = page(directory, evaluations, None, None, directory, stays=True)
    words = [tuple(block for block in section.blocks if block.kind != "picture") for section in made.sections]
    sections = tuple(replace(section, blocks=blocks) for section, blocks in zip(made.sections, words, strict=True))
    render(replace(made, sections=sections)).encode(errors="backslashreplace")


def use_recipe(raw: bytes) -> None:
    """A recipe, read and planned."""
    directory = _scratch("recipe")
    file = directory.parent / "recipe.toml"
    file.write_bytes(raw)
    recipe = load_recipe(file, source=str(directory))
    plan.make_plan(open_model(directory), recipe, unmeasured=True)
    json.dumps(recipe.to_dict())


def use_healing(raw: bytes) -> None:
    """A recipe of a healing run, read; what it names is not looked at."""
    file = _scratch("healing").parent / "healing.toml"
    file.write_bytes(raw)
    settings = HealSettings.load(file)
    json.dumps(settings.to_dict())
    assert settings.steps >= 1
    if settings.mixture is not None:
        parse_weights(settings.mixture)


def use_steps(raw: bytes) -> None:
    """A recipe of steps, read; what it names is not looked at."""
    file = _scratch("steps").parent / "steps.toml"
    file.write_bytes(raw)
    for step in load_steps(file).steps:
        assert step.model in step.models.values()
        assert all(isinstance(path, Path) for path in (*step.files.values(), *step.made))


def as_toml(recipe: Mapping[str, Any]) -> bytes:
    """TOML of JSON data, near enough: what it does not have is damage."""
    name = "steps" if "steps" in recipe else "passes"
    found = recipe.get(name)
    tables = found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else []
    lines = [f"{key} = {json.dumps(value)}" for key, value in recipe.items() if not (key == name and tables)]
    for table in tables:
        lines += [f"[[{name}]]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines).encode()


# ---------------------------------------------------------------------------------------------------- companions


def use_settings(raw: bytes) -> None:
    """Settings of tokenizer and generation, beside a `tokenizer.model`; all four are in one object here."""
    directory = _scratch("settings")
    (directory / "tokenizer.model").write_bytes(sentencepiece_model())
    found = parse_or_empty(raw)
    for name in check.SETTINGS:
        (directory / name).write_bytes(json.dumps(found.get(name, {})).encode())
    with patch("kept.checkpoint.tokenizer_files.built", lambda directory, _: TokenizerBuilder().files(str(directory))):
        companions(directory, open_model(directory).program.spec)


def parse_or_empty(raw: bytes) -> dict[str, Any]:
    """A JSON object, or none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def use_tokenizer(raw: bytes) -> None:
    """Load and use a `tokenizer.json` in this process; coverage is not measured in a fenced one."""
    directory = _scratch("tokenizer")
    (directory / "tokenizer.json").write_bytes(raw)
    reading = TokenizerWorker(str(directory / "tokenizer.json"))
    _, ids = reading.encode(["Once upon a time, 한국어"], True)
    reading.decode(array("i", ids)[:64].tolist())


def use_sentencepiece(raw: bytes) -> None:
    """A `tokenizer.model`."""
    directory = _scratch("sentencepiece")
    (directory / "tokenizer.model").write_bytes(raw)
    tokenizer_files(directory)


def use_card(raw: bytes) -> None:
    """A model card's front matter."""
    directory = _scratch("card")
    (directory / "README.md").write_bytes(b"---\n" + raw + b"\n---\n")
    stated_licence(directory)


def use_gguf(raw: bytes) -> None:
    """Open a GGUF file; if it is accepted, describe it, encode a text, and run the model if it is small."""
    file = _scratch("gguf") / "model.gguf"
    file.write_bytes(raw)
    opened = open_model(file)
    json.dumps([describe(opened.program.spec), opened.quantised, opened.notes]).encode()
    if (opened.path / "tokenizer.json").is_file():
        TokenizerWorker(str(opened.path / "tokenizer.json")).encode(["ab <x>"], True)
    companions(opened.path, opened.program.spec)
    check_rotation(opened.program.spec)
    if opened.program.parameters <= SMALL:
        Model.load(opened.program)(torch.tensor([[0, opened.program.spec.vocabulary - 1]]))


def as_gguf(told: Mapping[str, Any]) -> bytes:
    """Return a GGUF file made from JSON data; each value gets the metadata type that fits it."""
    parts: list[dict[str, Any]] = [
        value if isinstance(value := told.get(name), dict) else {} for name in ("keys", "tensors")
    ]
    keys, tensors = parts
    assert keys is not None
    assert tensors is not None
    metadata = b"".join(_text(str(key)) + _typed(value) for key, value in keys.items())
    entries, data = b"", b""
    for name, entry_of in tensors.items():
        numbers = entry_of if isinstance(entry_of, list) else []
        kind, *shape = [n for n in numbers if type(n) is int and 0 <= n < 1 << 32] or [0]
        entries += _text(str(name)) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += b"\x38" * min(4096, -(-4 * _count(tuple(shape)) // 32) * 32)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + metadata + entries
    return start + bytes(-len(start) % 32) + data


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _typed(value: Any) -> bytes:  # noqa: ANN401 - JSON
    """Return a metadata value preceded by its type."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int) and 0 <= value < 1 << 32:
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    if isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 31 for one in value):
        return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return struct.pack("<I", 8) + _text(repr(value)[:99] if not isinstance(value, str) else value)


@cache
def sentencepiece_model() -> bytes:
    """A BPE model of a few pieces, as protobuf."""
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁", 1), ("a", 1), ("b", 1), ("ab", 1), ("▁ab", 1), ("<x>", 4)]
    out = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", -float(at)) + bytes((0x18, kind)))
        for at, (text, kind) in enumerate(pieces)
    )
    return out + _field(2, b"\x18\x02") + _field(3, b"\x18\x01")


def _field(number: int, content: bytes) -> bytes:
    return bytes((8 * number + 2, len(content))) + content


@cache
def _tokenizer() -> dict[str, Any]:
    directory = _scratch("settings")
    (directory / "tokenizer.model").write_bytes(sentencepiece_model())
    found: dict[str, Any] = json.loads(tokenizer_files(directory)["tokenizer.json"])
    return found


RECIPE = {
    "source": "a",
    "out": "b",
    "to": "llama",
    "norm": "exact",
    "final_bias": "block",
    "context": 64,
    "dtype": "bfloat16",
    "max_shard_size": "5GB",
    "verify_tokens": 16,
    "passes": [{"name": "layernorm-to-rmsnorm", "mode": "opm"}, {"name": "fill-biases", "biases": ["attention.q"]}],
}

STEPS = {
    "out": "out",
    "keep_intermediate": True,
    "steps": [
        {"do": "expand", "source": "a", "groups": 2, "blocks": 1, "name": "room"},
        {"do": "heal", "teacher": "room", "train": "new", "data": ["english=en"], "tokens": "2K"},
        {"do": "shrink-expanded", "max_kl": 0.1, "layers": [1], "text": "t"},
        {"do": "convert", "to": "llama"},
        {"do": "verify", "against": "room", "tokens": 9},
        {"do": "eval", "out": "e.json", "texts": ["t"], "tasks": ["positions"], "limit": 3},
        {"do": "report", "evaluations": ["e.json"], "file": "p.html"},
    ],
}

HEALING = {
    "student": "a",
    "teacher": "b",
    "out": "c",
    "data": ["english=x", "y.jsonl"],
    "mixture": "english=0.7,y=1/3",
    "train": "norms+lora",
    "tokens": "1.5M",
    "learning_rate": 1e-3,
    "batch_size": 2,
    "lr_schedule": "wsd",
    "gradient_checkpointing": True,
}

RECORD = {
    "promise": "exact",
    "recipe": {"to": "llama"},
    "new_layers": [1],
    "expansions": [{"layers": [1], "copies_of": [0]}],
    "history": [
        {"promise": "lossy", "passes": [], "source": {"name": "a", "family": "b", "files": {"config.json": "x"}}}
    ],
    "files": {"config.json": "0" * 64, "model.safetensors": "x"},
}

DOCUMENTS: list[Any] = [
    {"text": "seven ships", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "text": "two"},
]

QUESTIONS: list[Any] = [
    {"question_id": n, "category": "writing", "turns": ["a", "b"], "choices": [{"turns": ["c", "d"]}]} for n in (1, 2)
]

CACHE = {"format": FORMAT, "k": 8, "rows": 1, "sequence_length": 4, "vocabulary": 9, "counts": [1], "temperature": 1.0}

SETTINGS = {
    "tokenizer_config.json": {"bos_token": "<s>", "add_bos_token": True, "tokenizer_class": "LlamaTokenizer"},
    "special_tokens_map.json": {"unk_token": {"content": "<unk>", "special": True}},
    "added_tokens.json": {"<y>": 9},
    "generation_config.json": {"eos_token_id": 2, "temperature": 0.5},
}

PIECES = ["<unk>", "<s>", "</s>", "a", "b", "ab", "<x>"]

GGUF_SIZES = {
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 8,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 0.5,
    "llama.rope.freq_base": 10000.0,
    "llama.rope.dimension_count": 4,
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 4],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{{ bos_token }}",
}

GGUF_TENSORS = {
    "token_embd.weight": [0, 8, len(PIECES)],
    "output_norm.weight": [0, 8],
    **{f"blk.0.{name}_norm.weight": [0, 8] for name in ("attn", "ffn")},
    **{f"blk.0.attn_{name}.weight": [0, 8, 8] for name in ("q", "output")},
    **{f"blk.0.attn_{name}.weight": [0, 8, 4] for name in "kv"},
    **{f"blk.0.ffn_{name}.weight": [0, 8, 8] for name in ("gate", "up", "down")},
}

GGUFS = tuple(
    {"keys": {"general.architecture": "llama", **GGUF_SIZES, **own}, "tensors": {**GGUF_TENSORS, **further}}
    for own, further in (
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0, 0, 0, 1, 1, 9, 0]}, {}),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.merges": ["a b"]},
            {"rope_freqs.weight": [0, 2]},
        ),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0, "general.alignment": 32}, {}),
    )
)

TARGETS_OF_FUZZING: Mapping[str, Target] = {
    "header": Target(lambda: (_header(),), use_header, _with_header),
    "index": Target(lambda: ({"weight_map": dict.fromkeys(_header(), "model.safetensors")},), use_index),
    "config": Target(lambda: tuple(config_of(family) for family in CONFIGS if family in FAMILIES), use_config),
    "recipe": Target(lambda: (RECIPE,), use_recipe, as_toml),
    "healing": Target(lambda: (HEALING,), use_healing, as_toml),
    "steps": Target(lambda: (STEPS,), use_steps, as_toml),
    "record": Target(lambda: (RECORD,), use_record),
    "documents": Target(lambda: (DOCUMENTS,), use_documents, _as_lines),
    "questions": Target(lambda: (QUESTIONS,), use_questions, _as_lines),
    "teacher-cache": Target(lambda: (CACHE,), use_teacher_cache),
    "report": Target(lambda: ({**reported.RECORD, "healed": reported.HEALED},), use_report),
    "evaluation": Target(lambda: (reported.EVALUATION,), use_evaluation),
    "settings": Target(lambda: (SETTINGS,), use_settings),
    "tokenizer": Target(lambda: (_tokenizer(),), use_tokenizer),
    "sentencepiece": Target(lambda: (sentencepiece_model(),), use_sentencepiece),
    "gguf": Target(lambda: GGUFS, use_gguf, as_gguf),
    "card": Target(lambda: (b"license: mit\nlicense_name: &a x\nlicense_link: *a\n",), use_card),
}
"""Every target by name; fuzz/run.py NAME runs it under atheris."""

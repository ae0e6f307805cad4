"""Bad input end to end: one printable line, exit code 2, nothing half-written, little memory, and no code run."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import kept
from kept.checkpoint.licences import licences, stated_licence
from kept.checkpoint.safetensors_header import read_header
from kept.cli.root import main
from kept.errors import LONGEST_LINE, CheckpointError, KeptError, printable
from kept.passes.legalize import MOST_STEPS
from support.models import write_checkpoint
from support.stored import INDEX, booby_trap, change_json, entry, read_json, write_json, write_raw, write_readable
from targets import _field

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_readable(tmp_path / "source", "orion")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def complaint(*arguments: object) -> str:
    """The one line of a command that exits with 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.isprintable()
    return line


def refused(source: Path, *options: object) -> str:
    """Every command refuses a source with the same line, and nothing is left behind."""
    before = sorted(source.parent.iterdir())
    line = complaint("convert", source, source.parent / "out", *options)
    assert sorted(source.parent.iterdir()) == before
    if not options:
        assert complaint("plan", source) == complaint("inspect", source) == complaint("generate", source) == line
    return line


# ------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\nb\t c", "a b c"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("caf\udce9", "caf\\udce9"),
        ("한국어 é", "한국어 é"),
        ("\u202egnp", "\\u202egnp"),
    ],
)
def test_a_message_is_one_printable_line(text: str, wanted: str) -> None:
    assert printable(text) == str(KeptError(text)) == wanted


def test_a_message_is_short() -> None:
    assert len(printable("x" * 10**6)) <= LONGEST_LINE
    assert printable("a" * 10**6 + "the way out").endswith("the way out")


# ----------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"model_type": "orion"}'.encode("utf-16"), "cannot be read as JSON"),
        ('{"model_type": "orion"}'.encode("utf-32"), "cannot be read as JSON"),
        (b'{"vocab_size": 1, "vocab_size": 2}', "the key 'vocab_size' occurs twice"),
        (b'{"model_type": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": [{"\\uDFFF": 1}]}', "half of a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
    ],
)
def test_json_is_strict(source: Path, raw: bytes, reason: str) -> None:
    (source / "config.json").write_bytes(raw)
    assert reason in refused(source)


def test_a_whole_surrogate_pair_is_text(source: Path) -> None:
    raw = (source / "config.json").read_bytes().replace(b"{", b'{"note": "\\ud83d\\ude00",', 1)
    (source / "config.json").write_bytes(raw)
    assert run("plan", source).exit_code == 0


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-32"])
def test_a_header_is_utf_8(source: Path, encoding: str) -> None:
    write_raw(source / "model.safetensors", json.dumps({"a": entry("F32", [2], [0, 8])}).encode(encoding), b"\0" * 8)
    assert "its header cannot be read as JSON" in refused(source)


def test_a_header_names_a_tensor_once(source: Path) -> None:
    one = json.dumps(entry("F32", [2], [0, 8]))
    write_raw(source / "model.safetensors", f'{{"a": {one}, "a": {one}}}'.encode(), b"\0" * 8)
    assert "the key 'a' occurs twice" in refused(source)


def test_a_tensor_s_name_cannot_write_to_the_terminal(source: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    save_file({**tensors, "\x1b]0;owned\x07\nx": torch.ones(1)}, source / "model.safetensors")
    assert "\\x1b]0;owned\\x07" in refused(source)


def test_json_on_stdout_has_no_nan(source: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.bias"][0], tensors["model.layers.0.input_layernorm.weight"][:] = float("nan"), 0.0
    save_file(tensors, source / "model.safetensors")

    def no_constant(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(run("inspect", source, "--json").stdout, parse_constant=no_constant)
    assert found["norms"][-1]["bias_to_gain"] is None


# ----------------------------------------------------------------------------------------------- links and places


def test_loops_of_links(source: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "loop: is not a directory" in complaint("inspect", tmp_path / "loop")
    assert "exists already" in complaint("convert", source, tmp_path / "loop")
    assert "cannot be written" in complaint("convert", source, tmp_path / "loop" / "out")


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json"),
        *("tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md", "kept.json"),
    ],
)
@pytest.mark.parametrize("kind", ["loop", "nothing", "outside", "device", "pipe", "directory", "large"])
def test_a_file_that_may_not_be_read(source: Path, name: str, kind: str) -> None:
    for weights in ("model.safetensors", INDEX):
        (source / weights).unlink(missing_ok=True)
    file, reason = source / name, "cannot be read (it is not a regular file)"
    file.unlink(missing_ok=True)
    match kind:
        case "loop" | "nothing":
            file.symlink_to(name if kind == "loop" else "nowhere")
            reason = "cannot be read ("
        case "outside":
            (source.parent / "secret").write_bytes(b"{}")
            file.symlink_to(source.parent / "secret")
            reason = f"is a link to {source.parent / 'secret'}, outside of the checkpoint; put the file itself there"
        case "device":
            file.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(file)
        case "directory":
            file.mkdir()
        case "large":
            with file.open("wb") as opened:
                opened.truncate(1 << 40)
            reason = ""  # large weight files are accepted, but have no header
    assert f"{file}: {reason}" in refused(source)


def test_links_inside_a_checkpoint_and_to_its_blobs_are_followed(source: Path, tmp_path: Path) -> None:
    """Links follow the layout of the hub's cache; blobs of another repository are outside."""
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / ("c" * 40)
    snapshot.parent.mkdir(parents=True)
    source.rename(cache / "blobs")
    snapshot.mkdir()
    for file in (cache / "blobs").iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert run("plan", snapshot).exit_code == 0
    (tmp_path / "link").symlink_to(snapshot)
    assert run("plan", tmp_path / "link").exit_code == 0
    (cache / "blobs").rename(tmp_path / "models--org--other")
    (cache / "blobs").symlink_to("../models--org--other")
    assert "outside of the checkpoint" in refused(snapshot)


@pytest.mark.parametrize("place", ["LICENSE", "LICENSES/MIT.txt"])
def test_a_licence_that_is_a_link_out_of_the_checkpoint(source: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    (source / "LICENSES").mkdir()
    (source / place).symlink_to(tmp_path / "secret")
    assert f"{place}: is a link to" in complaint("convert", source, tmp_path / "out", "--verify-tokens", "0")


@pytest.mark.parametrize("out", ["new/..", "new/../../x/.."])
def test_an_output_without_a_name(source: Path, tmp_path: Path, out: str) -> None:
    assert "names no new directory" in complaint("convert", source, tmp_path / out)
    assert [place.name for place in tmp_path.iterdir()] == ["source"]


def test_an_output_inside_the_source_by_a_link(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("source")
    assert "lies inside the source" in complaint("convert", source, tmp_path / "link" / "out")


def test_a_target_that_cannot_be_written(source: Path) -> None:
    assert "/proc/out: cannot be written" in complaint("convert", source, "/proc/out")


def test_names_of_files_that_are_not_text(source: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    source.rename(odd)
    assert "caf\\udce9: orion" in run("inspect", odd).stdout
    assert run("plan", odd, "--json").exit_code == 0
    result = run("convert", odd, tmp_path / "out", "--verify-tokens", "16")
    assert result.exit_code == 0, result.output
    assert read_json(tmp_path / "out" / "kept.json")["source"]["name"] == "caf\\udce9"
    (odd / os.fsdecode(b"LICEN\xe9")).write_text("x", encoding="utf-8")
    assert "its name is not printable" in complaint("convert", odd, tmp_path / "two")


def test_weights_whose_name_is_no_text(source: Path) -> None:
    (source / "model.safetensors").rename(source / os.fsdecode(b"model\xe9.safetensors"))
    assert "only model\\udce9.safetensors, which transformers does not load" in refused(source)


# ------------------------------------------------------------------------------------------------------- licences


def test_a_directory_of_licences_comes_along(source: Path, tmp_path: Path) -> None:
    (source / "LICENSES" / "deep").mkdir(parents=True)
    for name in ("MIT.txt", "run.py", "x.bin", "deep/no"):
        (source / "LICENSES" / name).write_text(name, encoding="utf-8")
    (source / "LICENSES" / "loop").symlink_to("loop")
    (source / "LICENSE").symlink_to("gone")
    assert [*licences(source)] == ["LICENSES/MIT.txt"]
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    assert (out / "LICENSES" / "MIT.txt").read_text(encoding="utf-8") == "MIT.txt"
    assert [file.name for file in (out / "LICENSES").iterdir()] == ["MIT.txt"]
    assert "LICENSES/MIT.txt" in read_json(out / "kept.json")["files"]
    assert "LICENSES/MIT.txt" in (out / "README.md").read_text(encoding="utf-8")
    assert run("check", out).exit_code == 0


def test_a_card_cannot_ask_for_more_than_it_holds(tmp_path: Path) -> None:
    levels = "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12))
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\na0: &a0 {{k: v}}\n{levels}\n---\n", encoding="utf-8")
    assert stated_licence(tmp_path) == {"license": "mit"}
    (tmp_path / "README.md").write_text("---\nlicense: null\nlicense_name: a b\n---\n", encoding="utf-8")
    assert stated_licence(tmp_path) == {"license_name": "a b"}


# -------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-shard-size", "0.4B"], "max_shard_size: is '0.4B'"),
        (["--max-shard-size", "9" * 400 + "GB"], "max_shard_size: is '999"),
        (["--verify-tokens", 10**30], f"verify_tokens: is {10**30}"),
        (["--verify-tokens", -3], "verify_tokens: is -3"),
        (["--context", 10**30], f"{10**30} were asked"),
    ],
)
def test_options_past_all_measure(source: Path, options: list[object], words: str) -> None:
    assert words in refused(source, *options)


def test_verify_reads_no_more_than_memory_holds(source: Path) -> None:
    assert f"tokens: is {10**30}" in complaint("verify", source, source, "--tokens", 10**30)


def test_a_recipe_of_more_passes_than_a_plan_has(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    lines = [f'source = "{source}"', 'out = "o"', *['[[passes]]\nname = "centre"'] * (MOST_STEPS + 1)]
    recipe.write_text("\n".join(lines), encoding="utf-8")
    assert f"passes: are {MOST_STEPS + 1}, a plan has at most {MOST_STEPS}" in complaint("plan", "--recipe", recipe)


def test_a_recipe_names_dtypes_as_everything_else_does(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    text = f'source = "{source}"\nout = "{tmp_path}/out"\nverify_tokens = 0\n[[passes]]\nname = "cast"\ndtype = '
    recipe.write_text(f'{text}"BF16"', encoding="utf-8")
    assert "dtype: is 'BF16'; it must be one of float64, float32" in complaint("convert", "--recipe", recipe)
    recipe.write_text(f'{text}"bfloat16"', encoding="utf-8")
    assert run("convert", "--recipe", recipe).exit_code == 0
    record = read_json(tmp_path / "out" / "kept.json")
    assert record["recipe"]["passes"] == [{"name": "cast", "dtype": "bfloat16"}]
    assert record["passes"][0]["options"] == {"dtype": "bfloat16"}


def test_a_tokenizer_that_fails_on_a_text(source: Path) -> None:
    content = read_json(source / "tokenizer.json")
    content["model"]["unk_token"], content["model"]["vocab"] = "<gone>", {"<s>": 0}
    content["added_tokens"] = content["added_tokens"][:0]
    write_json(source / "tokenizer.json", content)
    result = run("generate", source, "--prompt", "hello")
    assert result.exit_code == 2
    assert "tokenizer.json" in result.stderr


def test_calibration_on_a_norm_that_is_zero(source: Path, tmp_path: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    for name in ("model.layers.1.input_layernorm.weight", "model.layers.1.input_layernorm.bias"):
        tensors[name][:] = 0.0
    save_file(tensors, source / "model.safetensors")
    text = tmp_path / "text"
    text.write_text("seven ships, and one of them was late " * 20, encoding="utf-8")
    norms = {norm.name: norm for norm in kept.inspect(source, text).norms}
    assert norms["layers.1.mixer_norm"].error_calibrated == 0.0
    out = kept.convert(source, tmp_path / "out", norm="calibrated", text=str(text), verify_tokens=16).path
    assert run("check", out).exit_code == 0


# -------------------------------------------------------------------------------------------------------- records


def test_verify_notices_another_source(source: Path, tmp_path: Path) -> None:
    other = write_readable(tmp_path / "other", "orion", seed=1)
    out = kept.convert(source, tmp_path / "out", norm="opm", verify_tokens=0).path
    assert not [note for note in kept.verify(source, out, tokens=16).notes if "not the source" in note]
    found = kept.verify(other, out, tokens=16)
    assert f"{other}: not the source that kept.json names: model.safetensors differ" in found.notes
    change_json(source / "tokenizer_config.json", padding_side="left")
    assert any("tokenizer_config.json differ" in note for note in kept.verify(source, out, tokens=16).notes)


def test_a_record_with_an_invalid_recipe_is_refused(source: Path, tmp_path: Path) -> None:
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    change_json(out / "kept.json", recipe={"norm": "omp"})
    with pytest.raises(CheckpointError, match=r"kept\.json: .* \(recipe\.to: is missing\)"):
        kept.verify(source, out, tokens=16)


# ---------------------------------------------------------------------------------------------- memory and time

LIMIT = 3 << 30
"""Bytes of address space: enough for torch, far below what the files ask for."""


def limited(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command under a limit of memory and of time."""
    return subprocess.run(
        [sys.executable, "-m", "kept", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
    )


def _many_axes(source: Path) -> None:
    write_raw(source / "model.safetensors", {"a": entry("F32", [9] * 300_000, [0, 8])}, b"\0" * 8)


def _huge_shape(source: Path) -> None:
    write_raw(source / "model.safetensors", {"a": entry("F32", [5 * 10**9, 5], [0, 10**11])}, b"\0" * 8)


def _huge_sizes(source: Path) -> None:
    change_json(source / "config.json", vocab_size=2**31 - 1, hidden_size=2**31 - 4, intermediate_size=2**31 - 1)


def _huge_depth(source: Path) -> None:
    change_json(source / "config.json", num_hidden_layers=2**31 - 1)


def _deep_json(source: Path) -> None:
    (source / "config.json").write_bytes(b'{"a":' * 200_000)


def _many_keys(source: Path) -> None:
    (source / "config.json").write_text("{" + ",".join(f'"{i}":1' for i in range(90_000)) + ',"0":1}', encoding="utf-8")


def _number_for_bytes(source: Path) -> None:
    (source / "tokenizer.json").unlink()
    pieces = _field(1, _field(1, b"a")) + _field(2, b"\x18\x02")
    (source / "tokenizer.model").write_bytes(pieces + _field(3, b"\x10\x80\x80\x80\x80\x80\x10"))


def _long_piece(source: Path) -> None:
    (source / "tokenizer.json").unlink()
    text = b"a" * 1_000_000
    size = struct.pack("BBB", len(text) & 0x7F | 0x80, len(text) >> 7 & 0x7F | 0x80, len(text) >> 14)
    inner = b"\x0a" + size + text
    outer = struct.pack("BBB", len(inner) & 0x7F | 0x80, len(inner) >> 7 & 0x7F | 0x80, len(inner) >> 14)
    unknown = _field(1, _field(1, b"<unk>") + b"\x18\x02")
    model = unknown + b"\x0a" + outer + inner + _field(2, b"\x18\x02") + _field(3, b"\x18\x01")
    (source / "tokenizer.model").write_bytes(model)


ASKING: dict[str, Callable[[Path], None]] = {
    function.__name__[1:]: function
    for function in (
        *(_many_axes, _huge_shape, _huge_sizes, _huge_depth),
        *(_deep_json, _many_keys, _number_for_bytes, _long_piece),
    )
}


@pytest.mark.parametrize("name", ASKING)
def test_a_small_file_cannot_ask_for_much(source: Path, name: str) -> None:
    ASKING[name](source)
    assert sum(file.stat().st_size for file in source.iterdir()) < 2 << 20
    command = ["convert", source, source.parent / "out", "--verify-tokens", "16"]
    done = limited(*command) if "piece" in name or "bytes" in name else limited("plan", source)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert not line.startswith(("kept: MemoryError", "kept: RuntimeError"))
    assert [place.name for place in source.parent.iterdir()] == ["source"]


# ------------------------------------------------------------------------------------------------------ no code run

ESCAPE = "{{ cycler.__init__.__globals__.os.system('touch %s') }}"
"""A template that would run code outside a sandbox."""


class _Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.marker), "w"))


def arm(source: Path, marker: Path) -> None:
    """Remote code, pickles and templates, everywhere that a loader might look."""
    escape = ESCAPE % marker
    remote = {
        "AutoConfig": "trap.Config",
        "AutoModelForCausalLM": "trap.OrionForCausalLM",
        "AutoTokenizer": ["trap.T", None],
    }
    change_json(
        source / "config.json", auto_map=remote, chat_template=escape, custom_pipelines={"x": {"impl": "trap.P"}}
    )
    settings = {"tokenizer_class": "TrapTokenizer", "chat_template": escape, "processor_class": "trap.P"}
    change_json(source / "tokenizer_config.json", auto_map=remote, **settings)
    change_json(source / "generation_config.json", custom_generate="trap.py", chat_template=escape)
    (source / "chat_template.jinja").write_text(escape, encoding="utf-8")
    write_json(source / "chat_template.json", {"chat_template": escape})
    (source / "README.md").write_text(f"---\nlicense: '{escape}'\n---\n{escape}", encoding="utf-8")
    (source / "LICENSE").write_text(escape, encoding="utf-8")
    for name in (
        "trap",
        "configuration_orion",
        "modeling_orion",
        "tokenization_orion",
        "__init__",
        "conftest",
        "setup",
    ):
        booby_trap(source / f"{name}.py", marker)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "tokenizer.pkl"):
        (source / name).write_bytes(pickle.dumps(_Bomb(marker)))


def test_the_traps_do_work(source: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    arm(source, marker)
    jinja2.Environment(autoescape=True).from_string(
        (source / "chat_template.jinja").read_text(encoding="utf-8")
    ).render()
    assert marker.exists()
    marker.unlink()
    pickle.loads((source / "pytorch_model.bin").read_bytes()).close()  # noqa: S301 - to see that the bomb does work
    assert marker.exists()
    marker.unlink()
    subprocess.run([sys.executable, source / "trap.py"], check=True)
    assert marker.exists()


@pytest.mark.parametrize("tokenizer", ["fast", "sentencepiece"])
def test_no_command_runs_code_of_a_checkpoint(
    source: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, out = tmp_path / "marker", tmp_path / "out"
    if tokenizer == "sentencepiece":
        from support.stored import write_sentencepiece

        (source / "tokenizer.json").unlink()
        write_sentencepiece(source)
    arm(source, marker)
    monkeypatch.chdir(source)
    monkeypatch.syspath_prepend(str(source))
    for command in (
        ["inspect", source],
        ["plan", source],
        ["convert", source, out, "--verify-tokens", 16],
        ["verify", source, out, "--tokens", 16],
        ["generate", source, "--max-new-tokens", 2],
        ["generate", out, "--max-new-tokens", 2],
        ["check", source],
        ["check", out],
    ):
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert not marker.exists(), command
    assert (out / "chat_template.jinja").read_bytes() == (source / "chat_template.jinja").read_bytes(), "copied only"
    assert not [file.name for file in out.iterdir() if file.suffix in {".py", ".bin", ".pt", ".pth", ".pkl"}]
    assert "auto_map" not in read_json(out / "config.json") | read_json(out / "tokenizer_config.json")


def test_a_tokenizer_class_cannot_make_transformers_import_anything(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "source", "orion", tie_word_embeddings=False)
    for name in ("Trainer", "pipeline", "__doc__", "models", "\0", "MyTokenizer"):
        change_json(source / "tokenizer_config.json", tokenizer_class=name)
        from kept.checkpoint.tokenizer_config import tokenizer_config

        assert tokenizer_config(source)["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_an_index_of_pickles_is_refused_with_the_way_out(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "orion")
    (source / "model.safetensors").unlink()
    (source / "pytorch_model-00001-of-00001.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "marker")))
    write_json(source / "pytorch_model.bin.index.json", {"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}})
    assert "is not a zip archive; if torch before 1.6 wrote it, load it in a sandbox and torch.save it" in refused(
        source
    )
    assert not (tmp_path / "marker").exists()


# ------------------------------------------------------------------------------------- what an attacker found at last


@pytest.mark.parametrize("name", ["README.md", "kept.json", "model.py", "pytorch_model.bin", "x.part"])
def test_an_index_may_name_safetensors_only(source: Path, name: str) -> None:
    weights = source / "model.safetensors"
    names = [*dict(read_header(weights))]
    weights.rename(source / name)
    write_json(source / "model.safetensors.index.json", {"weight_map": dict.fromkeys(names, name)})
    assert f"names '{name}', which is not a *.safetensors file; rename it" in refused(source)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "orion"])
def test_a_model_that_looks_ahead_is_no_decoder(tmp_path: Path, family: str) -> None:
    source = write_checkpoint(tmp_path / "source", family)
    change_json(source / "config.json", is_causal=False)
    assert "is_causal is False, it must be true: a decoder's attention is causal" in refused(source)


def test_types_of_layers_that_contradict_the_window(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "mistral", sliding_window=7)
    change_json(source / "config.json", layer_types=["sliding_attention", "full_attention", "sliding_attention"])
    assert "layer_types" in refused(source)
    change_json(source / "config.json", layer_types=["sliding_attention"] * 3)
    assert run("plan", source, "--to", "mistral").exit_code == 0


def test_a_nan_that_no_logit_shows_is_named(source: Path, tmp_path: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["model.embed_tokens.weight"][96] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    said = complaint("convert", source, tmp_path / "out")
    assert "model.embed_tokens.weight holds 64 NaN; fetch the file again" in said
    assert not (tmp_path / "out").exists()


def test_a_value_beyond_the_format_that_was_asked_for_is_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e6
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    said = complaint("convert", source, tmp_path / "out", "--dtype", "float16", "--verify-tokens", "0")
    assert "up_proj.weight: 1 values are beyond float16; kept convert --dtype bfloat16 or float32 may help" in said
    assert not (tmp_path / "out").exists()


def test_names_in_a_record_cannot_draw_on_the_terminal(source: Path, tmp_path: Path) -> None:
    assert run("convert", source, tmp_path / "out", "--verify-tokens", "0").exit_code == 0
    record = read_json(tmp_path / "out" / "kept.json")
    change_json(tmp_path / "out" / "kept.json", files={**record["files"], "\x1b[31mRED\nkept: all is well": "x"})
    said = run("check", tmp_path / "out").stdout
    assert "\x1b" not in said
    assert not any(line.startswith("kept: all is well") for line in said.splitlines())


def test_a_record_that_lists_nothing_proves_nothing(source: Path, tmp_path: Path) -> None:
    assert run("convert", source, tmp_path / "out", "--verify-tokens", "0").exit_code == 0
    change_json(tmp_path / "out" / "kept.json", files={})
    result = run("check", tmp_path / "out")
    assert result.exit_code == 2
    assert "config.json: is not in kept.json; it was added later" in result.stdout + result.stderr


@pytest.mark.parametrize("given", ["/dev/zero", "pipe"])
@pytest.mark.parametrize(
    "asked",
    [
        ("convert", "{source}", "{out}", "--text"),
        ("inspect", "{source}", "--text"),
        ("eval", "{source}", "--results", "{out}", "--text"),
        ("heal", "{source}", "--loss", "ce", "--sequence-length", "32", "--out", "{out}", "--data"),
        (
            "heal",
            "{source}",
            *[
                "--loss",
                "ce",
                "--sequence-length",
                "32",
                "--data",
                "{talk}",
                "--chat",
                "--out",
                "{out}",
                "--chat-template",
            ],
        ),
        ("cache-teacher", "{source}", "--sequence-length", "32", "--out", "{out}", "--data"),
        ("tokenizer", "train", "--vocab-size", "300", "--out", "{out}"),
    ],
    ids=lambda asked: f"{asked[0]} {asked[-1]}",
)
def test_what_never_ends_is_not_read(source: Path, tmp_path: Path, asked: tuple[str, ...], given: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "talk.jsonl").write_text("{}")
    named = {"source": source, "out": tmp_path / "out", "talk": tmp_path / "talk.jsonl"}
    said = complaint(*(word.format(**named) for word in asked), tmp_path / given)
    assert "not a regular file" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_that_is_too_long(source: Path, tmp_path: Path, length: int) -> None:
    assert "cannot be written (File name too long)" in complaint("convert", source, tmp_path / ("a" * length))


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("inspect", ""), "PATH"),
        (("check", ""), "PATH"),
        (("convert", "", "out"), "SOURCE"),
        (("convert", "source", ""), "OUT"),
        (("convert", "source", "out", "--text", ""), "--text"),
        (("eval", "source", ""), "[OTHER]..."),
        (("report", "source", "--out", ""), "--out"),
        (("run", ""), "RECIPE"),
        (("heal", ""), "STUDENT|RECIPE"),
    ],
)
def test_an_empty_path_is_not_the_working_directory(words: tuple[str, ...], name: str) -> None:
    assert f"{name}: the path is empty" in complaint(*words)


def test_an_empty_model_path_is_refused_in_python() -> None:
    with pytest.raises(CheckpointError, match="the path of the model is empty"):
        kept.open_model("")


@pytest.mark.parametrize("place", ["x", "x/y"])
def test_an_output_below_a_file_names_the_file(source: Path, tmp_path: Path, place: str) -> None:
    file = tmp_path / "file"
    file.touch()
    assert f"{file / place}: cannot be written, {file} is not a directory" in complaint("convert", source, file / place)

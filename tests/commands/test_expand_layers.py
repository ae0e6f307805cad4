"""`kept expand`: what is written, what is copied, what the record says, and that it learns."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import kept
from kept.checkpoint.reader import open_checkpoint
from kept.cli.root import main
from kept.errors import CheckpointError, Refusal
from kept.ir.tensors import Stored
from kept.nn import Model
from support.logits import program_of, some_tokens, stock, stock_logits
from support.models import frequencies, write_checkpoint
from support.stored import change_json, read_json, split_into_shards, tensors_of, write_readable

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

TOKENS = some_tokens()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("sources") / "llama", "llama", num_hidden_layers=5)


@pytest.fixture(scope="module")
def expanded(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept.expand(source, tmp_path_factory.mktemp("expanded") / "out", groups=2, verify_tokens=64).path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


# ---------------------------------------------------------------------------------------------------------- what it is


def test_the_stock_class_gives_the_same_bits(source: Path, expanded: Path, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        wanted = stock_logits(source, TOKENS, dtype)
        assert torch.equal(stock_logits(expanded, TOKENS, dtype), wanted)
    loud = tmp_path / "loud"  # negative control: one projection that is not zero
    loud.mkdir()
    tensors = tensors_of(expanded)
    tensors["model.layers.2.self_attn.o_proj.weight"] = tensors["model.layers.1.self_attn.o_proj.weight"].clone()
    save_file(tensors, loud / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(expanded / "config.json", loud)
    assert not torch.equal(stock_logits(loud, TOKENS, torch.bfloat16), wanted)


def test_the_source_s_files_are_there_and_the_new_layers_behind_them(source: Path, tmp_path: Path) -> None:
    """Data as they were, byte for byte; a file in which no layer got another number is the same file."""
    many = split_into_shards(shutil.copytree(source, tmp_path / "many"), 3)
    out = kept.expand(many, tmp_path / "out", at=(5,), verify_tokens=0).path
    names = [f"model-0000{i}-of-0000{{}}.safetensors" for i in (1, 2, 3, 4)]
    assert [file.name for file in open_checkpoint(out).files] == [name.format(4) for name in names]
    for name in names[:3]:
        assert (out / name.format(4)).read_bytes() == (many / name.format(3)).read_bytes()
    stored = {name: tensor for name, tensor in open_checkpoint(out).tensors.items() if isinstance(tensor, Stored)}
    new = {name for name, tensor in stored.items() if tensor.file.name == names[3].format(4)}
    assert new == {name for name in open_checkpoint(out).tensors if ".layers.5." in name}
    moved = kept.expand(many, tmp_path / "moved", at=(0,), verify_tokens=0).path
    for name in names[:3]:
        before, after = (bytes_of(folder / name.format(n)) for folder, n in ((many, 3), (moved, 4)))
        assert before == after


def test_what_the_model_does_not_need_is_left_out(source: Path, tmp_path: Path) -> None:
    """A buffer that old checkpoints carry; the rest of its file is still copied."""
    old = shutil.copytree(source, tmp_path / "old")
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": frequencies()}
    save_file({**tensors_of(source), **buffer}, old / "model.safetensors", metadata={"format": "pt"})
    out = kept.expand(old, tmp_path / "out", groups=2, verify_tokens=0).path
    assert len(open_checkpoint(out).files) == 2
    assert not buffer.keys() & tensors_of(out).keys()
    assert torch.equal(stock_logits(out, TOKENS), stock_logits(source, TOKENS))


def test_where_all_is_written_anew_files_are_too(source: Path, tmp_path: Path) -> None:
    for options in ({"dtype": "float64"}, {"max_shard_size": "1GB"}):
        out = kept.expand(source, tmp_path / next(iter(options)), groups=2, verify_tokens=0, **options).path  # type: ignore[arg-type]
        assert [file.name for file in open_checkpoint(out).files] == ["model.safetensors"]


def bytes_of(file: Path) -> bytes:
    """Return the bytes after a header."""
    raw = file.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def test_the_record_names_the_new_layers(source: Path, expanded: Path) -> None:
    record = read_json(expanded / "kept.json")
    assert record["new_layers"] == [2, 6]
    assert record["expansions"] == [{"layers": [2, 6], "copies_of": [1, 5]}]
    assert all(name.startswith(("layers.2.", "layers.6.")) for name in record["new_parameters"])
    assert len(record["new_parameters"]) == 2 * 9
    assert (record["promise"], record["verification"]["kept"], record["recipe"]["to"]) == ("exact", True, "same")
    measured = record["verification"]
    assert measured["copied"] is True
    assert measured["same"]["max_logit_error"] == 0
    assert measured["same"]["layers"] == [0] * 6
    assert measured["proof"] is measured["output"] is measured["floor"] is None
    assert read_json(expanded / "config.json")["num_hidden_layers"] == 7
    assert kept.verify(source, expanded, tokens=64).failure is None
    assert "Layers 2, 6 are new" in (expanded / "README.md").read_text(encoding="utf-8")


def test_an_expanded_model_is_expanded_again(expanded: Path, tmp_path: Path) -> None:
    again = kept.expand(expanded, tmp_path / "again", at=(0, 1, 9), verify_tokens=64).path
    record = read_json(again / "kept.json")
    assert record["new_layers"] == [0, 1, 9]
    earlier, latest = record["expansions"]
    assert earlier == {"layers": [4, 8], "copies_of": [3, 7]}
    assert latest == {"layers": [0, 1, 9], "copies_of": [2, 3, 8]}
    assert torch.equal(stock_logits(again, TOKENS), stock_logits(expanded, TOKENS))


def test_a_record_of_other_layers_is_found_before_anything_is_written(expanded: Path, tmp_path: Path) -> None:
    wrong = shutil.copytree(expanded, tmp_path / "wrong")
    for value in ([{"layers": [99], "copies_of": [1]}], [3], 7, [{"layers": [2]}]):
        change_json(wrong / "kept.json", expansions=value)
        with pytest.raises(CheckpointError, match=r"kept\.json: .*expansions"):
            kept.expand(wrong, tmp_path / "out", groups=1)
    assert not [*tmp_path.glob(".out*")]


def test_a_conversion_that_expands_knows_what_it_made(tmp_path: Path) -> None:
    """A pass of a recipe: expanded first, then a Llama with a tail."""
    orion = write_readable(tmp_path / "orion", "orion")
    done = kept.convert(orion, tmp_path / "out", passes=[{"name": "expand-blocks", "groups": 3}], verify_tokens=64)
    assert done.record["new_layers"] == [1, 3, 5, 6]
    assert done.record["expansions"] == [{"layers": [1, 3, 5], "copies_of": [0, 2, 4]}]
    assert "layers.2.mixer.q.bias" in done.record["new_parameters"]
    assert len(done.record["verification"]["output"]["layers"]) == 4
    assert kept.verify(orion, done.path, tokens=64).failure is None


def test_a_family_without_a_stock_class_states_it(tmp_path: Path) -> None:
    done = kept.expand(write_readable(tmp_path / "orion", "orion"), tmp_path / "out", groups=1, verify_tokens=0)
    card = (done.path / "README.md").read_text(encoding="utf-8")
    assert "# orion with 1 more block\n" in card
    assert "transformers has no class for it" in card
    assert "AutoModelForCausalLM" not in card
    assert done.notes == (f"transformers has no class for orion; kept convert {done.path} makes it one that it has",)
    assert kept.convert(done.path, tmp_path / "llama", verify_tokens=64).record["promise"] == "exact"


def test_the_page_names_the_family_and_the_options(expanded: Path, tmp_path: Path) -> None:
    page = kept.report(expanded, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert "llama with 2 more blocks" in page
    assert "expand-blocks (groups 2, blocks 1, placement interleaved)" in page
    orion = kept.expand(write_readable(tmp_path / "orion", "orion"), tmp_path / "out", at=(1,), verify_tokens=0).path
    other = kept.report(orion, tmp_path / "other.html").path.read_text(encoding="utf-8")
    assert "orion with 1 more block" in other
    assert "transformers has no class for orion" in other
    assert "AutoModelForCausalLM" not in other


def test_an_expansion_is_carried_on_by_a_conversion(expanded: Path, tmp_path: Path) -> None:
    record = kept.convert(expanded, tmp_path / "out", to="mistral", verify_tokens=0).record
    assert (record["new_layers"], record["expansions"]) == ([2, 6], [{"layers": [2, 6], "copies_of": [1, 5]}])
    assert record["new_parameters"] == read_json(expanded / "kept.json")["new_parameters"]


def test_lists_of_layers_go_and_words_stay(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "mistral", "mistral", hidden_act="gelu_new")
    change_json(source / "config.json", layer_types=["full_attention"] * 3, note="mine")
    config = read_json(kept.expand(source, tmp_path / "out", groups=1, verify_tokens=0).path / "config.json")
    assert "layer_types" not in config
    assert (config["hidden_act"], config["note"], config["num_hidden_layers"]) == ("gelu_new", "mine", 4)


def test_layers_that_differ_keep_their_kind_on_disk(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "smollm3", "smollm3", num_hidden_layers=4)
    out = kept.expand(source, tmp_path / "out", groups=2, verify_tokens=0).path
    assert read_json(source / "config.json")["no_rope_layers"] == [1, 0, 1, 0]
    assert read_json(out / "config.json")["no_rope_layers"] == [1, 0, 0, 1, 0, 0]


def test_windows_stay_with_their_layers(tmp_path: Path) -> None:
    """Every other layer of a Gemma 2 slides: the copies do as their models, which the config lists."""
    source = write_readable(tmp_path / "gemma2", "gemma2", num_hidden_layers=4)
    out = kept.expand(source, tmp_path / "out", groups=2, blocks=2, verify_tokens=0).path
    slides = [kind == "sliding_attention" for kind in read_json(out / "config.json")["layer_types"]]
    assert slides == [True, False, True, False, True, False, True, False]
    other = kept.expand(source, tmp_path / "other", at=(1, 5), verify_tokens=0).path
    slides = [kind == "sliding_attention" for kind in read_json(other / "config.json")["layer_types"]]
    assert slides == [True, True, False, True, False, False]
    found, wanted = (stock(path, attention="eager")(TOKENS).logits for path in (other, source))
    assert torch.equal(found, wanted)
    back = kept.shrink_expanded(other, tmp_path / "back", untrained=True, tokens=16).conversion
    assert back is not None
    assert read_json(back.path / "config.json")["layer_types"] == read_json(source / "config.json")["layer_types"]


def test_a_tied_model_in_many_files_without_a_tokenizer(tmp_path: Path) -> None:
    source = split_into_shards(write_checkpoint(tmp_path / "gemma", "gemma"), 2)
    assert "lm_head.weight" not in tensors_of(source)
    done = kept.expand(source, tmp_path / "out", groups=3, verify_tokens=32)
    assert done.record["verification"]["text"] == "random tokens (the checkpoint has no tokenizer)"
    assert done.record["verification"]["same"]["max_logit_error"] == 0
    assert "lm_head.weight" not in tensors_of(done.path)
    assert not [*done.path.glob("tokenizer*")]
    assert torch.equal(stock_logits(done.path, TOKENS), stock_logits(source, TOKENS))


def test_an_expansion_becomes_another_family_and_is_still_new(tmp_path: Path) -> None:
    """A tail is new too, and the copies stay so."""
    orion = write_readable(tmp_path / "orion", "orion")
    pro = kept.expand(orion, tmp_path / "pro", at=(1,), verify_tokens=0).path
    record = kept.convert(pro, tmp_path / "llama", verify_tokens=32).record
    assert (record["new_layers"], record["expansions"]) == ([1, 4], [{"layers": [1], "copies_of": [0]}])
    assert {name.split(".")[1] for name in record["new_parameters"] if name.endswith("q.weight")} == {"1", "4"}
    (before,) = record["history"]
    assert (before["source"]["name"], before["passes"][0]["options"]["at"]) == ("orion", [1])
    card = (tmp_path / "llama" / "README.md").read_text(encoding="utf-8")
    assert "\n1. orion (orion): expanded by layer 1; promise exact\n2. pro (orion): converted to llama (" in card
    again = kept.convert(tmp_path / "llama", tmp_path / "again", to="llama", verify_tokens=0)
    assert "carry its community licence" in (again.path / "README.md").read_text(encoding="utf-8")
    found = kept.verify(orion, tmp_path / "llama", tokens=32)
    assert (found.failure, str(found.promise), found.proof) == (None, "exact", None)
    assert found.notes[-1].endswith("2 conversions ago; held to the weakest of their promises")


# ------------------------------------------------------------------------------------------------------------ learning


def test_the_new_layers_learn_and_nothing_else_does(expanded: Path, source: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": f"def f{i}(x): return x + {i}"}) for i in range(200)))
    words = ("--train", "new", "--kl", 0, "--ce", 1, "--data", corpus, "--tokens", "4K", "--learning-rate", "2e-3")
    result = run("heal", expanded, *words, "--sequence-length", 32, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    first, *_, last = (one["losses"]["loss"] for one in record["healed"]["groups"]["student"]["held_out"])
    assert last < first - 0.05
    before, after = tensors_of(expanded), tensors_of(tmp_path / "out")
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed == {name for name in before if ".layers.2." in name or ".layers.6." in name}
    assert (record["new_layers"], record["expansions"]) == ([2, 6], [{"layers": [2, 6], "copies_of": [1, 5]}])
    assert not torch.equal(stock_logits(tmp_path / "out", TOKENS), stock_logits(source, TOKENS))
    same = kept.verify(source, tmp_path / "out", tokens=64).same
    assert same is not None
    assert (len(same.layers), same.layers[:2]) == (6, (0, 0)), "layer 2 is the first that learned"
    assert same.layers[2] > 0


# -------------------------------------------------------------------------------------------------------- command line


def test_in_words(source: Path, tmp_path: Path) -> None:
    result = run("expand", source, tmp_path / "out", "--groups", 2, "--verify-tokens", 64)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        f"{tmp_path}/out: written (expand-blocks)",
        "groups of 2, 3 layers",
        "new layers, copies whose output is zero: 2 (of 1), 6 (of 5)",
    ]
    assert lines[-1] == "promise exact: kept"


def test_as_data_and_as_the_library_does(source: Path, expanded: Path, tmp_path: Path) -> None:
    result = run("expand", source, tmp_path / "out", "--at", "2,6", "--verify-tokens", 64, "--json")
    assert json.loads(result.stdout)["new_layers"] == [2, 6]
    assert tensors_of(tmp_path / "out").keys() == tensors_of(expanded).keys()
    program, other = program_of(tmp_path / "out"), program_of(expanded)
    assert torch.equal(Model.load(program)(TOKENS), Model.load(other)(TOKENS))


def test_what_would_be_written(source: Path, tmp_path: Path) -> None:
    words = ("expand", source, tmp_path / "out", "--groups", 2, "--blocks", 2, "--placement", "suffix", "--dry-run")
    assert "new layers, copies whose output is zero: 5 (of 1)" in run(*words).stdout
    said = json.loads(run(*words, "--json").stdout)
    assert said["new_layers"] == [5, 6, 7, 8]
    assert [*said["files"]][:2] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "groups: is missing; give the number of groups, or at, the numbers of the new layers"),
        ("--groups 0", "groups: is 0, it must be at least 1"),
        ("--groups 2 --blocks 0", "blocks: is 0, it must be at least 1"),
        ("--groups 6", "expand-blocks: groups: are 6, the model has 5 layers; give at most 5"),
        ("--groups 2 --blocks 3", "expand-blocks: blocks: are 3, the smallest group has 2; give at most 2"),
        ("--groups 1000000000000", "expand-blocks: groups: are 1000000000000, the model has 5 layers; give at most 5"),
        ("--at 0,7", "expand-blocks: at: is 7, the result has layers 0 to 6; give lower numbers"),
        ("--at 3,3", "at: is 3, 3; it must be layer numbers from 0 up, each once and in order"),
        ("--groups 2 --placement top", "placement: is 'top'; it must be one of interleaved, prefix, suffix"),
    ],
)
def test_what_is_wrong_is_one_line(source: Path, tmp_path: Path, words: str, line: str) -> None:
    result = run("expand", source, tmp_path / "out", *words.split())
    assert (result.exit_code, result.stderr) == (2, f"kept: {line}\n")
    assert not [*tmp_path.iterdir()]


def test_invalid_numbers_are_refused(source: Path, tmp_path: Path) -> None:
    result = run("expand", source, tmp_path / "out", "--at", "one")
    assert "at: is 'one', it must be a list of whole numbers, as 4,9,14" in result.stderr


def test_a_pass_of_a_recipe_file(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    ends = f'source = "{source}"\nout = "{tmp_path}/out"\nto = "same"\nverify_tokens = 0\n'
    recipe.write_text(f'{ends}[[passes]]\nname = "expand-blocks"\nat = [2, 6]\n')
    assert json.loads(run("convert", "--recipe", recipe, "--json").stdout)["new_layers"] == [2, 6]
    for option, line in (
        ('at = "two"', "7: pass 1: at: is 'two', it must be a list of whole numbers, as 4,9,14"),
        ("groups = 0", "7: pass 1: groups: is 0, it must be at least 1"),
        ("placement = 3\ngroups = 1", "7: pass 1: placement: is 3; it must be one of interleaved, prefix, suffix"),
    ):
        recipe.write_text(f'{ends}[[passes]]\nname = "expand-blocks"\n{option}\n')
        assert run("convert", "--recipe", recipe).stderr == f"kept: {recipe}:{line}\n"


def test_what_a_family_cannot_say_is_refused(source: Path, tmp_path: Path) -> None:
    """A stack deeper than a config may state."""
    doubled: list[dict[str, Any]] = [
        {"name": "expand-blocks", "groups": 1, "blocks": count} for count in (5, 10, 20, 40, 80, 160, 320, 361)
    ]
    with pytest.raises(Refusal, match=r"num_hidden_layers is 1001.*; choose other layers, or another target \(to\)$"):
        kept.convert(source, tmp_path / "out", to="same", verify_tokens=0, passes=doubled)

"""`kept shrink-expanded`: what goes, what is given back to the byte, and what the record says then."""

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
from kept.errors import CheckpointError, InputError
from kept.nn import Model
from kept.verification.contribution import losses
from support.logits import program_of, some_tokens
from support.stored import BYTES_VOCABULARY, change_json, read_json, split_into_shards, tensors_of, write_readable

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

TOKENS = some_tokens()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("sources") / "llama", "llama", num_hidden_layers=4)


@pytest.fixture(scope="module")
def expanded(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New layers 1, 3, 5 and 7, copies of 0, 2, 4 and 6."""
    return kept.expand(source, tmp_path_factory.mktemp("expanded") / "out", groups=4, verify_tokens=0).path


@pytest.fixture(scope="module")
def trained(expanded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer 1 is untrained, 3 and 5 write hardly anything, 7 does."""
    return spoken(expanded, tmp_path_factory.mktemp("trained") / "out", {3: 2e-3, 5: 1e-3, 7: 0.2})


def spoken(expanded: Path, out: Path, scales: dict[int, float]) -> Path:
    """A copy whose new layers write with a part of what their models write with."""
    shutil.copytree(expanded, out)
    tensors = tensors_of(expanded)
    for layer, scale in scales.items():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            model = tensors[f"model.layers.{layer - 1}.{name}.weight"]
            tensors[f"model.layers.{layer}.{name}.weight"] = (scale * model.float()).to(model.dtype)
    for file in (*out.glob("*.safetensors"), *out.glob("*.index.json")):
        file.unlink()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def data(*words: object) -> Any:
    result = run("shrink-expanded", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# ----------------------------------------------------------------------------------------------------------- reversible


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "olmo2", "gemma2", "orion", "gpt_neox"])
def test_what_nothing_trained_is_given_back_to_the_byte(family: str, tmp_path: Path) -> None:
    source = write_readable(tmp_path / family, family)
    grown = kept.expand(source, tmp_path / "grown", groups=2, verify_tokens=0).path
    done = kept.shrink_expanded(grown, tmp_path / "out", tokens=32)
    assert (done.dropped, done.text, done.together) == (tuple(read_json(grown / "kept.json")["new_layers"]), None, 0.0)
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(bits(after[name]), bits(tensor)) for name, tensor in before.items())
    record = read_json(tmp_path / "out" / "kept.json")
    assert (record["promise"], record["verification"]["kept"]) == ("exact", True)
    assert record["verification"]["same"]["max_logit_error"] == 0
    assert record["verification"]["copied"] is True
    assert (record["new_layers"], record["new_parameters"], record["expansions"]) == ([], [], [])
    assert kept.verify(source, tmp_path / "out", tokens=32).failure is None
    assert kept.verify(grown, tmp_path / "out", tokens=32).failure is None


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def test_the_source_s_own_files_are_given_back(source: Path, tmp_path: Path) -> None:
    many = split_into_shards(shutil.copytree(source, tmp_path / "many"), 3)
    grown = kept.expand(many, tmp_path / "grown", groups=2, verify_tokens=0).path
    kept.shrink_expanded(grown, tmp_path / "out", untrained=True)
    files = open_checkpoint(many).files
    assert [file.name for file in open_checkpoint(tmp_path / "out").files] == [file.name for file in files]
    assert all((tmp_path / "out" / file.name).read_bytes() == file.read_bytes() for file in files)


def test_an_expansion_of_an_expansion(source: Path, tmp_path: Path) -> None:
    """The model of a copy of a copy goes with it, or before it: then nobody says what it is a copy of."""
    once = kept.expand(source, tmp_path / "once", at=(1,), verify_tokens=0).path
    twice = kept.expand(once, tmp_path / "twice", at=(2, 6), verify_tokens=0).path
    both = [{"layers": [1], "copies_of": [0]}, {"layers": [2, 6], "copies_of": [1, 5]}]
    assert read_json(twice / "kept.json")["expansions"] == both
    kept.shrink_expanded(twice, tmp_path / "first", layers=[1], tokens=16)
    record = read_json(tmp_path / "first" / "kept.json")
    assert record["expansions"] == [{"layers": [1, 5], "copies_of": [None, 4]}]
    assert record["new_layers"] == [1, 5]
    assert [one["passes"][0]["options"].get("at") for one in record["history"]] == [[1], [2, 6]]
    again = kept.expand(tmp_path / "first", tmp_path / "again", at=(0,), verify_tokens=0).path
    assert read_json(again / "kept.json")["expansions"][0] == {"layers": [2, 6], "copies_of": [None, 5]}
    assert "1 (of a removed layer)" not in run("shrink-expanded", again, tmp_path / "none", "--dry-run").output
    kept.shrink_expanded(again, tmp_path / "all", untrained=True)
    before, after = tensors_of(source), tensors_of(tmp_path / "all")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert before.keys() == after.keys()


# --------------------------------------------------------------------------------------------------------- what it does


def test_the_least_go_first_as_long_as_all_together_are_worth_less(trained: Path, tmp_path: Path) -> None:
    table = data(trained, tmp_path / "none", "--tokens", 64, "--dry-run")
    worth = {one["layer"]: one["contribution"] for one in table["layers"]}
    assert [one["untrained"] for one in table["layers"]] == [True, False, False, False]
    assert worth[1] == 0 < worth[5] < worth[3] < worth[7]
    together = data(trained, tmp_path / "none", "--tokens", 64, "--dry-run", "--layers", "1,3,5")["together"]
    limits = {worth[5] / 2: [1], (worth[5] + worth[3]) / 2: [1, 5], together: [1, 5], together * 1.01: [1, 3, 5]}
    for below, dropped in limits.items():
        found = data(trained, tmp_path / "none", "--tokens", 64, "--dry-run", "--max-kl", below)
        assert (found["dropped"], found["record"]) == (dropped, None), below
        assert found["together"] < below
    assert not [*tmp_path.iterdir()]


def test_what_is_measured_is_the_divergence_without_the_layers(trained: Path) -> None:
    program = program_of(trained)
    tokens = some_tokens(vocabulary=BYTES_VOCABULARY)
    sets = [frozenset({3}), frozenset({7}), frozenset({3, 7}), frozenset[int]()]
    found = losses(program, sets, tokens)
    for layers, loss in zip(sets, found, strict=True):
        model = Model.load(program, torch.float64)
        wanted = model(tokens).log_softmax(-1)
        for layer in layers:
            model.layers[layer] = Skipped()
        without = model(tokens).log_softmax(-1)
        assert loss == pytest.approx(float((wanted.exp() * (wanted - without)).sum(-1).mean()), rel=1e-3, abs=1e-9)
    assert found[3] == 0 < found[0]


class Skipped(torch.nn.Module):
    def forward(self, x: torch.Tensor, *_: object) -> torch.Tensor:
        return x


def test_what_went_is_in_the_record_and_what_stays_learns_on(trained: Path, tmp_path: Path) -> None:
    found = data(trained, tmp_path / "out", "--layers", "1,3,5", "--tokens", 64)
    record = found["record"]
    assert record == read_json(tmp_path / "out" / "kept.json")
    assert (record["promise"], record["new_layers"]) == ("lossy", [4])
    assert record["expansions"] == [{"layers": [4], "copies_of": [3]}]
    assert record["verification"]["same"]["kl"] == pytest.approx(found["together"], rel=0.05)
    assert len(record["verification"]["same"]["layers"]) == 6
    assert {name.split(".")[1] for name in record["new_parameters"]} == {"4"}
    assert read_json(tmp_path / "out" / "config.json")["num_hidden_layers"] == 5
    assert kept.verify(trained, tmp_path / "out", tokens=64).failure is None
    words = ("--train", "new", "--kl", 0, "--ce", 1, "--tokens", 64, "--batch-size", 2, "--sequence-length", 16)
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"keeper {number} of the lights"}) for number in range(40)))
    healed = run("heal", tmp_path / "out", *words, "--data", text, "--out", tmp_path / "healed")
    assert healed.exit_code == 0, healed.output
    before, after = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "healed")
    assert {n.split(".")[2] for n in before if not torch.equal(before[n], after[n])} == {"4"}


def test_where_none_goes_nothing_is_written(source: Path, tmp_path: Path) -> None:
    grown = kept.expand(source, tmp_path / "grown", at=(4,), verify_tokens=0).path
    loud = spoken(grown, tmp_path / "loud", {4: 0.3})
    for words in ((), ("--untrained",)):
        result = run("shrink-expanded", loud, tmp_path / "out", *words)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1] == "no layer is dropped; nothing was written"
    assert not (tmp_path / "out").exists()
    assert kept.shrink_expanded(loud, tmp_path / "out").conversion is None


def test_in_words(trained: Path, tmp_path: Path) -> None:
    lines = run("shrink-expanded", trained, tmp_path / "out", "--untrained").stdout.splitlines()
    assert lines[0] == f"{trained}: 4 expanded layers"
    rows = [line.split() for line in lines if line.lstrip()[:1].isdigit()]
    assert rows[0] == ["1", "0", "untrained", "0", "dropped"]
    assert rows[1] == ["3", "2", "trained", "not", "measured", "kept"]
    assert "all dropped layers together: 0 nats/token" in lines
    assert f"{tmp_path}/out: written (drop-layers)" in lines
    assert lines[-1] == "promise exact: kept"


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--layers 2", "layers: 2 is not an expanded layer of {source}; there are 1, 3, 5, 7"),
        ("--layers 1 --untrained", "layers: is given together with untrained; leave out one of them"),
        ("--max-kl 0", "max_kl: is 0.0, it must be above 0"),
        ("--max-kl nan", "max_kl: is nan, it must be a finite number"),
        ("--tokens 1", "tokens: is 1, it must be from 2 to 10000000"),
    ],
)
def test_what_is_wrong_is_one_line(expanded: Path, tmp_path: Path, words: str, line: str) -> None:
    result = run("shrink-expanded", expanded, tmp_path / "out", *words.split())
    assert (result.exit_code, result.stderr) == (2, f"kept: {line.format(source=expanded)}\n")
    assert not [*tmp_path.iterdir()]


def test_a_model_that_was_never_expanded(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its kept\.json lists no expanded layers; kept expand makes them$"):
        kept.shrink_expanded(source, tmp_path / "out")


@pytest.mark.parametrize(
    "expansions",
    [
        3,
        [7],
        [{"layers": [1]}],
        [{"layers": [99], "copies_of": [0]}],
        [{"layers": [-1], "copies_of": [0]}],
        [{"layers": [1, 1], "copies_of": [0, 0]}],
        [{"layers": [1], "copies_of": [0, 2]}],
        [{"layers": ["1"], "copies_of": [0]}],
        [{"layers": [True], "copies_of": [0]}],
        [{"layers": [1], "copies_of": [[]]}],
        {"layers": [1], "copies_of": [0]},
    ],
)
def test_an_edited_record(expanded: Path, tmp_path: Path, expansions: object) -> None:
    wrong = shutil.copytree(expanded, tmp_path / "wrong")
    change_json(wrong / "kept.json", expansions=expansions)
    with pytest.raises(CheckpointError, match=r"kept\.json: (its expansions are not|the record is not .*expansions)"):
        kept.shrink_expanded(wrong, tmp_path / "out")

"""Tied and stored heads: read as the installed transformers loads them, or refused until --tie or --untie decides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from kept.cli.root import main
from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.loaded import open_model
from support.conversions import STOCK
from support.logits import logits, some_tokens, stock_logits, worst
from support.models import write_checkpoint
from support.stored import change_json, tensors_of

if TYPE_CHECKING:
    from pathlib import Path

HEADS = {
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
    "gpt_neox": ("gpt_neox.embed_in.weight", "embed_out.weight"),
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "phi": ("model.embed_tokens.weight", "lm_head.weight"),
}
"""Tensor names of embedding and head by family; Phi's head has a bias."""


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def write_heads(directory: Path, family: str, **changes: Any) -> tuple[Path, str, str]:
    """Write a tied checkpoint with a given `embedding` and `head` (None: not stored); return it and their names."""
    embedding, head = HEADS[family]
    write_checkpoint(directory, family, tie_word_embeddings=True)
    stored = tensors_of(directory)
    given = {"embedding": stored.pop(embedding), "head": None, **changes}
    named = {embedding: given["embedding"], head: given["head"]}
    save_file(
        {**stored, **{name: tensor for name, tensor in named.items() if tensor is not None}},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    return directory, embedding, head


def matrix(seed: int, directory: Path, family: str) -> torch.Tensor:
    """Return a random matrix of the embedding's shape."""
    write_checkpoint(directory, family, tie_word_embeddings=True)
    shape = tensors_of(directory)[HEADS[family][0]].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 4


@pytest.mark.parametrize("family", HEADS)
def test_a_stored_head_that_differs_is_the_user_s_choice(family: str, tmp_path: Path) -> None:
    other = matrix(1, tmp_path, family)
    directory, embedding, head = write_heads(tmp_path, family, head=other)
    with pytest.raises(CheckpointError) as refused:
        open_model(directory)
    said = str(refused.value)
    assert head in said
    assert embedding in said
    assert "--untie" in said
    assert "--tie" in said
    tokens = some_tokens()
    untied, tied = open_model(directory, tie=False).program, open_model(directory, tie=True).program
    assert (untied.spec.head.tied, tied.spec.head.tied) == (False, True)
    # The installed transformers uses the stored head, and the embedding if there is none.
    assert worst(logits(untied, tokens), stock_logits(directory, tokens)) < 1e-5
    alone, _, _ = write_heads(tmp_path / "alone", family)
    assert worst(logits(tied, tokens), stock_logits(alone, tokens)) < 1e-5
    assert worst(logits(tied, tokens), logits(untied, tokens)) > 0.1


@pytest.mark.parametrize("family", HEADS)
def test_a_head_stored_alone_is_the_embedding_too(family: str, tmp_path: Path) -> None:
    only = matrix(2, tmp_path, family)
    directory, _, _ = write_heads(tmp_path, family, embedding=None, head=only)
    program = open_model(directory).program
    assert program.spec.head.tied
    tokens = some_tokens()
    assert worst(logits(program, tokens), stock_logits(directory, tokens)) < 1e-5


def test_a_stored_copy_of_the_embedding_is_no_contradiction(tmp_path: Path) -> None:
    copy = matrix(3, tmp_path, "llama")
    directory, _, _ = write_heads(tmp_path, "llama", embedding=copy, head=copy.clone())
    assert open_model(directory).program.spec.head.tied
    tokens = some_tokens()
    assert worst(logits(open_model(directory).program, tokens), stock_logits(directory, tokens)) < 1e-5


@pytest.mark.parametrize("how", ["one element", "dtype", "shape"])
def test_a_copy_that_is_not_quite_one(how: str, tmp_path: Path) -> None:
    """A difference in the last element, the dtype or the shape is found."""
    own = matrix(4, tmp_path, "llama")
    other = own.clone()
    other[-1, -1] += 1e-6
    head = {"one element": other, "dtype": own.bfloat16(), "shape": own[:-1].clone()}[how]
    directory, _, _ = write_heads(tmp_path, "llama", embedding=own, head=head)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: differs from model\.embed_tokens\.weight"):
        open_model(directory)


def test_an_untied_head_that_is_not_stored(tmp_path: Path) -> None:
    """transformers would initialise the head at random."""
    directory, _, _ = write_heads(tmp_path, "llama")
    wanted = logits(open_model(directory).program, some_tokens())
    change_json(directory / "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: missing from the checkpoint.*--tie"):
        open_model(directory)
    assert torch.equal(logits(open_model(directory, tie=True).program, some_tokens()), wanted)


def test_a_head_that_is_not_tied_cannot_be_told_to_be(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "llama")
    assert not open_model(directory, tie=False).program.spec.head.tied
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: is stored, and the config does not tie it"):
        open_model(directory, tie=True)


def test_neither_head_nor_embedding(tmp_path: Path) -> None:
    directory, _, _ = write_heads(tmp_path, "llama", embedding=None)
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight: missing"):
        open_model(directory)


def test_where_only_a_family_s_own_code_runs_it_that_code_decides(tmp_path: Path) -> None:
    """MiniCPM's config ties by default; its code runs under transformers 4, which then uses the embedding."""
    directory = write_checkpoint(tmp_path, "minicpm")
    stated = open_model(directory).program
    assert not stated.spec.head.tied
    change_json(directory / "config.json", tie_word_embeddings=None)
    silent = open_model(directory).program
    assert silent.spec.head.tied
    assert worst(logits(silent, some_tokens()), logits(stated, some_tokens())) > 0.1
    (note,) = open_model(directory).notes
    assert "lm_head.weight: ignored" in note
    change_json(directory / "config.json", tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="differs from"):
        open_model(directory)


@pytest.mark.parametrize("name", sorted(name for name, family in FAMILIES.items() if family.entries))
def test_every_family_names_both(name: str) -> None:
    """Our own class has no entries: its tensors have the names of the slots."""
    slots = {entry.slot for entry in FAMILIES[name].entries}
    assert {"embedding.weight", "head.weight"} <= slots


@pytest.mark.parametrize("choice", ["--tie", "--untie"])
def test_the_choice_on_the_command_line(choice: str, tmp_path: Path) -> None:
    """The output has the logits of the chosen head in the stock class; verify reads the choice from the record."""
    other = matrix(1, tmp_path / "source", "llama")
    source, _, _ = write_heads(tmp_path / "source", "llama", head=other)
    out = tmp_path / "out"
    assert run("convert", source, out).exit_code == 2
    done = run("convert", source, out, choice, "--verify-tokens", 16)
    assert done.exit_code == 0, done.output
    wanted = logits(open_model(source, tie=choice == "--tie").program, some_tokens())
    assert worst(stock_logits(out, some_tokens()), wanted) < STOCK
    assert run("verify", source, out, "--tokens", 16).exit_code == 0
    record = json.loads((out / "kept.json").read_bytes())
    assert record["recipe"]["tie"] is (choice == "--tie")


def test_the_choice_in_a_recipe_of_steps(tmp_path: Path) -> None:
    other = matrix(1, tmp_path / "source", "llama")
    source, _, _ = write_heads(tmp_path / "source", "llama", head=other)
    steps = f"""out = "{tmp_path / "out"}"
[[steps]]
do = "expand"
source = "{source}"
groups = 1
verify_tokens = 8
tie = false
[[steps]]
do = "convert"
to = "llama"
verify_tokens = 8
"""
    (tmp_path / "steps.toml").write_text(steps, encoding="utf-8")
    done = run("run", tmp_path / "steps.toml")
    assert done.exit_code == 0, done.output
    wanted = logits(open_model(source, tie=False).program, some_tokens())
    assert worst(stock_logits(tmp_path / "out", some_tokens()), wanted) < STOCK

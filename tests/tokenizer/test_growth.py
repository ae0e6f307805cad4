"""New tokens of a grown tokenizer, and tokenizers that are not grown from the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from kept.errors import InputError
from kept.tokenizer.growth import growth
from support.stored import change_json, read_json, write_tokenizer
from support.tokenizers_of import change_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir()
    return write_tokenizer(tmp_path / "old")


def grown(directory: Path, pieces: dict[str, int], **changes: Any) -> Path:
    directory.mkdir()
    write_tokenizer(directory)
    vocab = {**read_json(directory / "tokenizer.json")["model"]["vocab"], **pieces}
    change_model(directory, vocab={piece: at for piece, at in vocab.items() if at >= 0}, merges=[["t", "h"]])
    change_json(directory / "tokenizer.json", **changes)
    return directory


def test_each_new_token_is_made_of_old_ones(old: Path, tmp_path: Path) -> None:
    vocab = read_json(old / "tokenizer.json")["model"]["vocab"]
    found = growth(old, grown(tmp_path / "new", {"th": 259, "the": 260}))
    assert (found.first, found.end, found.given) == (259, 261, None)
    assert found.parts == ((vocab["t"], vocab["h"]), (vocab["t"], vocab["h"], vocab["e"]))


def test_a_token_that_was_added_is_a_text(old: Path, tmp_path: Path) -> None:
    """Its name stands for itself: of a piece a space would be written `Ġ`."""
    new = grown(tmp_path / "new", {"th": 259})
    tokens = read_json(new / "tokenizer.json")["added_tokens"]
    added = {**tokens[0], "id": 260, "content": "<a b>"}
    change_json(new / "tokenizer.json", added_tokens=[*tokens, added])
    vocab = read_json(old / "tokenizer.json")["model"]["vocab"]
    assert growth(old, new).parts[1] == tuple(vocab[piece] for piece in "<aĠb>")


@pytest.mark.parametrize(
    ("pieces", "changes", "line"),
    [
        ({}, {}, "has the tokens of {old} and no more; there is nothing to grow by"),
        ({"th": 260}, {}, "gives a new token id 260, they must follow 258 one by one; merge it anew"),
        ({"th": 259, "a": 260}, {}, "gives 'a' id 260, {old} gives it id "),
        ({"th": 259, "a": -1}, {}, "gives 'a' none, {old} gives it id "),
        ({"th": 259}, {"normalizer": {"type": "Lowercase"}}, "has another normalizer than {old}; merge it anew"),
        ({"th": 259}, {"decoder": None}, "has another decoder than {old}; merge it anew"),
    ],
)
def test_what_is_no_grown_tokenizer(
    old: Path, tmp_path: Path, pieces: dict[str, int], changes: dict[str, Any], line: str
) -> None:
    new = grown(tmp_path / "new", pieces or {"th": 259}, **changes)
    if not pieces:
        change_model(new, vocab=read_json(old / "tokenizer.json")["model"]["vocab"], merges=[])
    with pytest.raises(InputError) as error:
        growth(old, new)
    assert str(error.value).startswith(f"{new}: {line.format(old=old)}")


def test_the_smaller_one_first(old: Path, tmp_path: Path) -> None:
    new = grown(tmp_path / "new", {"th": 259})
    with pytest.raises(InputError, match=r"old: gives 'th' none, .*new gives it id 259; merge it anew with kept token"):
        growth(new, old)


def test_what_is_not_there(old: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: is not a directory; name one with a tokenizer"):
        growth(old, tmp_path / "nowhere")


def test_rows_of_a_file(old: Path, tmp_path: Path) -> None:
    new, file = grown(tmp_path / "new", {"th": 259}), tmp_path / "rows.safetensors"
    save_file({"embedding": torch.ones(1, 4), "head": torch.ones(1, 4)}, file)
    found = growth(old, new, str(file)).given
    assert found is not None
    assert {name: tensor.shape for name, tensor in found.items()} == {"embedding": (1, 4), "head": (1, 4)}
    for tensors, line in (
        ({"embedding": torch.ones(1, 4), "rows": torch.ones(1)}, "names rows; rows are called embedding, head, bias"),
        ({"head": torch.ones(1, 4)}, "names no embedding; rows are called embedding, head, bias"),
        (
            {"embedding": torch.tensor([[1, torch.nan, 1, 1]])},
            "embedding has 1 NaN, which no model takes; make its rows anew",
        ),
    ):
        save_file(tensors, file)
        with pytest.raises(InputError, match=rf"rows\.safetensors: {line}$"):
            growth(old, new, str(file))


def test_invalid_rows_are_refused(old: Path, tmp_path: Path) -> None:
    new = grown(tmp_path / "new", {"th": 259})
    (tmp_path / "damaged").write_text("no tensors")
    for rows in ("median", str(tmp_path / "damaged")):
        with pytest.raises(InputError, match=r"^embedding_init: .*; give mean, zero or a safetensors file$"):
            growth(old, new, rows)

"""Each key that the installed transformers reads is read by a table, restricted to one value, or has no effect."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from kept.families import FAMILIES
from kept.families.olmo import OLMO
from support.logits import some_tokens
from support.models import write_checkpoint
from support.no_effect import NO_EFFECT, UNTRIED
from support.stock_keys import ours, stock, stock_rope

if TYPE_CHECKING:
    from pathlib import Path

    from kept.families.table import Family

STOCK = sorted(name for name, family in FAMILIES.items() if family.stock and not family.carries_code)

WAY_OUT = (
    "the installed transformers reads {keys}, and the table does not. Find out what each does: one that changes "
    "logits, with or without a cache, becomes an item of the table or a row of NEUTRAL; any other a row of "
    "tests/no_effect.py"
)


def unseen(family: Family) -> set[str]:
    """Return the keys that a stock class reads and that have no verdict."""
    return stock(family.name) - ours(family) - NO_EFFECT.keys()


@pytest.mark.parametrize("name", STOCK)
def test_every_key_that_the_stock_class_reads_has_a_verdict(name: str) -> None:
    found = unseen(FAMILIES[name])
    assert not found, WAY_OUT.format(keys=", ".join(sorted(found)))


def test_a_key_that_a_table_forgets_is_found() -> None:
    """Negative control: OLMo's table without the item that reads `clip_qkv`."""
    items = tuple(item for item in OLMO.items if getattr(item, "key", None) != "clip_qkv")
    assert unseen(replace(OLMO, items=items)) == {"clip_qkv"}


def test_every_verdict_is_needed() -> None:
    read = set().union(*(stock(name) - ours(FAMILIES[name]) for name in STOCK))
    assert not NO_EFFECT.keys() - read


def test_every_key_of_a_rotation_is_read() -> None:
    """Both names of the RoPE section count, since `ours` records keys without their section."""
    assert len(stock_rope()) > 10
    assert not stock_rope() - ours(FAMILIES["llama"])


@pytest.mark.parametrize("name", STOCK)
def test_keys_without_effect_have_none(name: str, tmp_path: Path) -> None:
    """With all such keys at other values than their defaults, the logits are bit-identical, with and without cache."""
    directory = write_checkpoint(tmp_path, name)
    plain = _logits(directory)
    unread = stock(name) - ours(FAMILIES[name])
    changed = {key: value for key, (_, value) in NO_EFFECT.items() if key in unread and value is not UNTRIED}
    _change(directory, **changed)
    assert torch.equal(_logits(directory), plain)


def _change(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@torch.inference_mode()
def _logits(directory: Path) -> torch.Tensor:
    """Return the logits of one pass, followed by those of a pass continued token by token."""
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    tokens = some_tokens(1, 20)
    step = model(tokens[:, :12], use_cache=True)
    steps = [step.logits]
    for at in range(12, 20):
        step = model(tokens[:, at : at + 1], past_key_values=step.past_key_values, use_cache=True)
        steps.append(step.logits)
    return torch.cat([model(tokens).logits, *steps], dim=1)

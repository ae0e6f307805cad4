"""Every family to every target but Llama, which each family's own tests have: exact through disk, or refused."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch

from kept.errors import Refusal
from kept.families import FAMILIES, TARGETS
from kept.ir.promise import Promise
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from support.conversions import STOCK, closed, converted, ignored
from support.logits import logits, program_of, some_tokens, stock, stock_logits, worst
from support.models import write_checkpoint
from support.pass_helpers import TOLERANCE, unread
from support.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path

LIKE_LLAMA = {"ernie4_5", "granitemoehybrid", "helium", "hyperclovax", "internlm3", "iquestcoder"}

BARE = LIKE_LLAMA | {
    *("aquila", "baichuan", "deci", "exaone", "gemma", "granite", "internlm2", "llama", "minicpm", "mistral", "olmo"),
}

LATENT = {"deepseek_v2", "deepseek_v3", "minicpm3", "youtu"}

BECOMES_LATENT = BARE | LATENT | {"glm", "phi3", "qwen", "qwen2", "seed_oss", "xverse"}
"""Sources with rotary positions everywhere and an MLP without biases."""

HAS_MLP_BIASES = {"arcee", "jais2", "nemotron", "orion", "stablelm", "starcoder2"}

EXACT = {
    "mistral": BARE | {"ministral", "phi3", "xverse"},
    "qwen2": BARE | {"kept", "ministral", "phi3", "xverse", "qwen", "qwen2", "seed_oss", "cwm"},
    "olmo2": {"olmo2"},
    "gpt_neox": {"falcon", "gpt_neox", "jais2", "nemotron", "starcoder2"},
    "deepseek_v2": BECOMES_LATENT | HAS_MLP_BIASES,
    "deepseek_v3": BECOMES_LATENT,
    "minicpm3": (BECOMES_LATENT | HAS_MLP_BIASES) - {"granite", "granitemoehybrid", "hyperclovax"},
    "youtu": BECOMES_LATENT,
    "kept": {*TINY},
}
"""The sources that become each target exactly; all others are refused. Their configs are in `models.TINY`."""

WRITTEN = {
    "deepseek_v2": {"llama", "orion"},
    "deepseek_v3": {"glm", "llama", "minicpm3", "qwen2"},
    "minicpm3": {"llama", "stablelm"},
    "youtu": {"qwen2"},
    "kept": {"gemma3_text", "stablelm"},
}
"""Sources that are written as these targets; of the others the plan is checked. `tests/native` has more."""

PAIRS = [(source, target) for target, source in product(EXACT, TINY)]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_becomes_the_target_or_is_refused(source: str, target: str, tmp_path: Path) -> None:
    """In float64; the stock class of the target computes what `kept` does, and every weight of it counts."""
    if source not in EXACT[target] or (target in WRITTEN and source not in WRITTEN[target]):
        reached = plans(source, target)
        assert reached == (source in EXACT[target]), f"{source} to {target}: EXACT says otherwise"
        return
    program = program_of(write_checkpoint(tmp_path / "source", source, dtype=torch.float64))
    output, tokens = converted(program, tmp_path / "out", TARGETS[target]), some_tokens()
    read = program_of(output)
    assert worst(logits(read, tokens), logits(program, tokens)) < TOLERANCE
    assert ignored(read, some_tokens(1, 12)) == closed(program, read)
    assert type(stock(output)).__name__ == TARGETS[target].architecture
    assert worst(stock_logits(output, tokens), logits(program, tokens)) < STOCK


def plans(source: str, target: str) -> bool:
    """Whether there is a plan that promises to be exact, for the tiny config and without weights."""
    program = unread(FAMILIES[source].read_config(TINY[source]))
    try:
        return legalise(program, TARGETS[target].violations, Options()).promise is Promise.EXACT
    except Refusal:
        return False


def test_these_are_all_targets() -> None:
    assert {"llama", *EXACT} == set(TARGETS)

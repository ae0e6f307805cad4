"""Families without a stock class: keys that their code reads, keys of other families, and unknown keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from transformers import CONFIG_MAPPING

import kept
from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.families.published import ANYWHERE, SHAPING, WITHOUT_EFFECT
from kept.loaded import open_model
from support.models import write_checkpoint
from support.stock_keys import ours
from support.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path

ORPHANS = sorted(name for name, family in FAMILIES.items() if not family.stock)

OWN_WORDS = {"kv_heads", "kv_norm", "positions", "qk_norm", "scale", "z_loss_weight"}
"""Keys that a table reads to recognise a variant, or that have the name of a fact."""

IN_SECTIONS = {
    *("attention_factor", "base", "beta_fast", "beta_slow", "factor", "high_freq_factor", "long_factor"),
    *("low_freq_factor", "mscale", "mscale_all_dim", "rope_type", "scaling_factor", "short_factor", "truncate", "type"),
    *("full_attention", "llama_4_scaling_beta", "sliding_attention"),
}
"""Keys of the RoPE section, which `ours` does not distinguish from top-level keys."""


@pytest.mark.parametrize("name", ORPHANS)
def test_no_family_is_one_that_the_installed_transformers_has(name: str) -> None:
    assert name not in CONFIG_MAPPING, f"transformers has a class for {name} now: compare with it, and set stock"


@pytest.mark.parametrize("name", ORPHANS)
def test_what_shapes_any_family_is_known_as_such(name: str) -> None:
    shaping = set().union(*(ours(family) for family in FAMILIES.values())) - IN_SECTIONS - OWN_WORDS
    unknown = shaping - ours(FAMILIES[name]) - SHAPING - ANYWHERE - {*WITHOUT_EFFECT.get(name, ())}
    assert not unknown, f"add to SHAPING or WITHOUT_EFFECT in families/published.py: {sorted(unknown)}"


@pytest.mark.parametrize("name", ORPHANS)
def test_a_key_that_shapes_other_families_is_refused(name: str) -> None:
    family = FAMILIES[name]
    for key in SHAPING - ours(family) - {*WITHOUT_EFFECT.get(name, ())}:
        with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is 2, a key that the published {name} code"):
            family.read_config({**TINY[name], key: 2})
        nothing: Any
        for nothing in (None, False, 0, [], {}):
            family.read_config({**TINY[name], key: nothing})


@pytest.mark.parametrize("name", ORPHANS)
def test_keys_of_its_own_code_and_of_any_config_are_passed_over(name: str) -> None:
    family = FAMILIES[name]
    spec = family.read_config(TINY[name])
    for key in ({*WITHOUT_EFFECT.get(name, ())} | ANYWHERE) - ours(family) - {"architectures", "auto_map"}:
        assert family.read_config({**TINY[name], key: 2}) == spec, key


def test_keys_that_nobody_knows_are_reported(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "orion", "orion", unsloth_version="2024.8", mystery=[1], _private=3)
    (note,) = open_model(directory).notes
    assert note.endswith("ignored keys, not known to change what orion computes: mystery, unsloth_version")
    assert open_model(write_checkpoint(tmp_path / "llama", "llama", mystery=[1])).notes == ()
    out = kept.convert(directory, tmp_path / "out", to="llama", verify_tokens=8).path
    words = "config.json: ignored keys, not known to change what orion computes: mystery, unsloth_version"
    assert json.loads((out / "kept.json").read_bytes())["source"]["notes"] == [words]
    assert f"- {words}\n" in (out / "README.md").read_text(encoding="utf-8")


def test_a_stock_class_reads_what_it_reads(tmp_path: Path) -> None:
    """Llama's class ignores Gemma's softcap, so the key changes nothing."""
    plain = FAMILIES["llama"].read_config(TINY["llama"])
    assert FAMILIES["llama"].read_config({**TINY["llama"], "attn_logit_softcapping": 50.0, "mystery": 1}) == plain

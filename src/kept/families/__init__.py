"""The families that `kept` reads and writes, by the `model_type` of their config."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.gemma import GEMMA
from kept.families.gemma2 import GEMMA2
from kept.families.gpt2 import GPT2
from kept.families.granite import GRANITE
from kept.families.llama import LLAMA
from kept.families.mistral import MISTRAL
from kept.families.nemotron import NEMOTRON
from kept.families.olmo import OLMO
from kept.families.olmo2 import OLMO2
from kept.families.orion import ORION
from kept.families.phi3 import PHI3
from kept.families.qwen2 import QWEN2
from kept.families.qwen3 import QWEN3
from kept.families.smollm3 import SMOLLM3
from kept.families.stablelm import STABLELM
from kept.families.starcoder2 import STARCODER2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.table import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        GEMMA,
        GEMMA2,
        GPT2,
        GRANITE,
        LLAMA,
        MISTRAL,
        NEMOTRON,
        OLMO,
        OLMO2,
        ORION,
        PHI3,
        QWEN2,
        QWEN3,
        SMOLLM3,
        STABLELM,
        STARCODER2,
    )
}
"""Every family by name."""

TARGETS: dict[str, Family] = {"llama": LLAMA}
"""The families that `convert --to` accepts."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config. Raises CheckpointError where it is not known, listing those that are."""
    name = config.get("model_type")
    if not isinstance(name, str):
        raise CheckpointError("config.json: has no model_type, so its family is unknown")
    if name not in FAMILIES:
        near = get_close_matches(name, FAMILIES, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"config.json: model_type {name!r} is not a family that kept reads ({known}){guess}")
    return FAMILIES[name]

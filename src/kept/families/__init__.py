"""The families that `kept` reads and writes, by the `model_type` of their config.

A family is a table: `items` map config keys to facts of the spec, `entries` map stored tensors to its slots. Most of it
is parts that families share (`families.parts`, `families.items`, `families.entries`), with the family's own key names,
tensor names and defaults:

    NAME = Family(
        name="name",
        architecture="NameForCausalLM",
        items=(
            *sizes(default_context=4096),
            *attention(head_dim=WIDTH_OVER_HEADS),
            *mlp(activation("silu")),
            *rms_norms(default=1e-5),
            Rotary(),
            tied_head(),
            SpecialTokens(bos=1, eos=2),
        ),
        entries=llama_entries(mlp=mlp_entries("model.layers.{i}.feed_forward", gate="w1", up="w3", down="w2")),
    )

An entry of a branch names the kind of its operation: `layers.*.mixer.attention.q.weight`. So layers may have mixers of
different kinds, and the same slot may have another stored name in each kind, or in each layer (`Entry.when`).
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.aquila import AQUILA
from kept.families.baichuan import BAICHUAN
from kept.families.classes import by_class
from kept.families.cohere import COHERE
from kept.families.config import Config
from kept.families.deci import DECI
from kept.families.deepseek_like import DEEPSEEK_V2, DEEPSEEK_V3, MINICPM3, YOUTU
from kept.families.exaone import EXAONE
from kept.families.falcon import FALCON
from kept.families.gemma import GEMMA
from kept.families.gemma2 import GEMMA2
from kept.families.gemma3 import GEMMA3
from kept.families.gpt2 import GPT2
from kept.families.gpt_neox import GPT_NEOX
from kept.families.granite import GRANITE
from kept.families.granite_like import GRANITEMOEHYBRID, HYPERCLOVAX
from kept.families.internlm import INTERNLM
from kept.families.internlm2 import INTERNLM2
from kept.families.llama import LLAMA
from kept.families.llama_like import ARCEE, ERNIE4_5, GLM, HELIUM, INTERNLM3, IQUESTCODER, JAIS2, SEED_OSS
from kept.families.minicpm import MINICPM
from kept.families.mistral import MISTRAL
from kept.families.mistral_like import CWM, MINISTRAL, MINISTRAL3
from kept.families.native import KEPT
from kept.families.nemotron import NEMOTRON
from kept.families.olmo import OLMO
from kept.families.olmo2 import OLMO2
from kept.families.orion import ORION
from kept.families.phi import PHI
from kept.families.phi3 import PHI3
from kept.families.qwen import QWEN
from kept.families.qwen2 import QWEN2
from kept.families.qwen3 import QWEN3
from kept.families.refused import REFUSED
from kept.families.smollm3 import SMOLLM3
from kept.families.stablelm import STABLELM
from kept.families.starcoder2 import STARCODER2
from kept.families.xverse import XVERSE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.table import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        AQUILA,
        ARCEE,
        BAICHUAN,
        COHERE,
        CWM,
        DECI,
        DEEPSEEK_V2,
        DEEPSEEK_V3,
        ERNIE4_5,
        EXAONE,
        FALCON,
        GEMMA,
        GEMMA2,
        GEMMA3,
        GLM,
        GPT2,
        GPT_NEOX,
        GRANITE,
        GRANITEMOEHYBRID,
        HELIUM,
        HYPERCLOVAX,
        INTERNLM,
        INTERNLM2,
        INTERNLM3,
        IQUESTCODER,
        JAIS2,
        KEPT,
        LLAMA,
        MINICPM,
        MINICPM3,
        MINISTRAL,
        MINISTRAL3,
        MISTRAL,
        NEMOTRON,
        OLMO,
        OLMO2,
        ORION,
        PHI,
        PHI3,
        QWEN,
        QWEN2,
        QWEN3,
        SEED_OSS,
        SMOLLM3,
        STABLELM,
        STARCODER2,
        XVERSE,
        YOUTU,
    )
}
"""Every family by name."""

TARGETS: dict[str, Family] = {
    family.name: family
    for family in (LLAMA, MISTRAL, QWEN2, OLMO2, GPT_NEOX, DEEPSEEK_V3, DEEPSEEK_V2, YOUTU, MINICPM3, KEPT)
}
"""The families that `convert --to` accepts."""


def is_stock(name: str) -> bool:
    """Whether transformers has a class for a family; of a name that is not known here that is assumed."""
    return name not in FAMILIES or FAMILIES[name].stock


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family of a config. Raises CheckpointError with the reason, or the known families, if unsupported."""
    name = config.get("model_type")
    if name is None:
        return _by_class(Config(config))
    if not isinstance(name, str):
        raise Config(config).wrong("model_type", "a string")
    if name in REFUSED:
        raise CheckpointError(f"config.json: model_type {name!r} {REFUSED[name]}")
    if name not in FAMILIES:
        near = [one for one in get_close_matches(name, FAMILIES, 1) if _stem(one) != _stem(name)]
        guess = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"config.json: model_type {name!r} is not a family that kept reads ({known}){guess}")
    return FAMILIES[name]


def _stem(name: str) -> str:
    """Return a family's name without its version: another version is another architecture, not a misspelling."""
    return re.split(r"[\d_.-]", name.lower())[0]


def _by_class(config: Config) -> Family:
    """Return the family of a config without a model_type, such as the first MiniCPM's, by `architectures`.

    Raises CheckpointError if `architectures` does not name the class of exactly one family.
    """
    found = by_class(config, FAMILIES)
    if found is None:
        raise CheckpointError(
            f"{config.where}: has no model_type, and architectures does not name the class of exactly one family; "
            "set model_type"
        )
    return found

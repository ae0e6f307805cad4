"""The class that a config names: in `architectures`, in `auto_map`, and without `model_type`."""

from __future__ import annotations

from typing import Any

import pytest

from kept.errors import CheckpointError
from kept.families import FAMILIES, family_of
from kept.families.classes import code_note
from kept.families.config import Config
from support.tiny import TINY, without

NAMES = sorted(FAMILIES)


def refusal(family: str, **changes: object) -> str:
    """Return the error message for a config."""
    with pytest.raises(CheckpointError) as caught:
        FAMILIES[family].read_config({**TINY[family], **changes})
    line = str(caught.value)
    assert line.startswith("config.json: ")
    assert len(line) < 300
    return line


@pytest.mark.parametrize("name", NAMES)
def test_its_own_class_in_any_capitals(name: str) -> None:
    for called in FAMILIES[name].architectures:
        for spelled in ([called], [called.lower()], ["Elsewhere", called]):
            FAMILIES[name].read_config({**TINY[name], "architectures": spelled})
    nothing: Any
    for nothing in ([], None):
        FAMILIES[name].read_config({**TINY[name], "architectures": nothing})


@pytest.mark.parametrize("name", NAMES)
def test_another_class_is_refused(name: str) -> None:
    other = "LlamaForCausalLM" if "LlamaForCausalLM" not in FAMILIES[name].architectures else "MistralForCausalLM"
    said = refusal(name, architectures=[other])
    assert f"architectures names {other!r}, which may differ from {FAMILIES[name].architecture}" in said


@pytest.mark.parametrize(
    ("called", "kind"),
    [
        ("LlamaForSequenceClassification", "a sequence classifier"),
        ("LlamaForTokenClassification", "a token classifier"),
        ("LlamaForQuestionAnswering", "an extractive question-answering model"),
        ("LlamaForRewardModel", "a reward model"),
        ("LlavaForConditionalGeneration", "a multimodal or encoder-decoder model"),
        ("LlamaModel", "the base model without an LM head"),
    ],
)
def test_what_is_no_language_model_is_called_what_it_is(called: str, kind: str) -> None:
    assert kind in refusal("llama", architectures=[called])


def test_a_bare_model_whose_head_is_its_embedding_lacks_nothing() -> None:
    FAMILIES["llama"].read_config({**TINY["llama"], "architectures": ["LlamaModel"], "tie_word_embeddings": True})


@pytest.mark.parametrize("names", ["LlamaForCausalLM", {"a": 1}, [1], [None]])
def test_what_are_no_names(names: object) -> None:
    assert "architectures is " in refusal("llama", architectures=names)


@pytest.mark.parametrize("own", ["modeling_llama.LlamaForCausalLM", "org/name--modeling_llama.LlamaForCausalLM"])
def test_code_for_the_same_class_is_reported(own: str) -> None:
    config = {**TINY["llama"], "auto_map": {"AutoModelForCausalLM": own}}
    FAMILIES["llama"].read_config(config)
    note = code_note(Config(config), FAMILIES["llama"])
    assert note is not None
    assert f"auto_map names {own}; kept never runs remote code" in note
    assert code_note(Config(TINY["llama"]), FAMILIES["llama"]) is None


def test_a_family_without_a_stock_class_is_its_own_code() -> None:
    config = {**TINY["orion"], "auto_map": {"AutoModelForCausalLM": "modeling_orion.OrionForCausalLM"}}
    FAMILIES["orion"].read_config(config)
    assert code_note(Config(config), FAMILIES["orion"]) is None


@pytest.mark.parametrize("name", ["llama", "orion"])
def test_code_for_another_class_is_refused(name: str) -> None:
    said = refusal(name, auto_map={"AutoModelForCausalLM": "modeling_decicoder.DeciCoderForCausalLM"})
    assert "auto_map names 'modeling_decicoder.DeciCoderForCausalLM', which may differ from" in said


@pytest.mark.parametrize("stated", [None, {}, "x", {"AutoConfig": "a.B"}, {"AutoModelForCausalLM": None}])
def test_an_auto_map_without_a_class_for_text(stated: object) -> None:
    FAMILIES["llama"].read_config({**TINY["llama"], "auto_map": stated})


@pytest.mark.parametrize("name", NAMES)
def test_without_a_model_type_the_class_tells_the_family(name: str) -> None:
    for called in FAMILIES[name].architectures:
        config = {**without(TINY[name], "model_type"), "architectures": [called]}
        owner = next((family for family in FAMILIES.values() if family.architecture == called), FAMILIES[name])
        assert family_of(config) is owner


@pytest.mark.parametrize(
    "config",
    [{}, {"architectures": ["BloomForCausalLM"]}, {"architectures": None}, {"model_type": None, "architectures": []}],
)
def test_without_either_the_family_is_unknown(config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"^config\.json: has no model_type"):
        family_of(config)


def test_classes_of_several_families_decide_nothing() -> None:
    with pytest.raises(CheckpointError, match="has no model_type"):
        family_of({"architectures": ["LlamaForCausalLM", "MistralForCausalLM"]})

"""The text part of multimodal models: logits equal those of the whole class on text; other models are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText

import kept
from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.families.multimodal import DEFAULTS, FAMILY_OF, TEXT_OF, text_part
from kept.ir.tensors import Full
from support.logits import logits, some_tokens, stock_logits, worst
from support.models import strong
from support.stored import change_json, read_json, tensors_of
from support.tiny import MINISTRAL3_ROPE, SIZES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ROTATED_IN_FLOAT32 = 1e-5
"""Tolerance on logits: stock classes compute angles and RMSNorm in float32, whatever the dtype of the weights."""

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "projection_dim": 32,
}

GEMMA_TEXT = {"rms_norm_eps": 1e-3, "head_dim": 16}

MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}

QWEN_VISION = {
    "depth": 1,
    "embed_dim": 32,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 4,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [0],
}

TEXTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": GEMMA_TEXT,
    "gemma3_text": {**GEMMA_TEXT, "sliding_window": 7, "sliding_window_pattern": 2},
    "ministral3": {
        **GEMMA_TEXT,
        "rope_parameters": MINISTRAL3_ROPE,
    },
    "qwen2_vl_text": {"rms_norm_eps": 1e-3, "rope_scaling": MROPE},
    "qwen2_5_vl_text": {"rms_norm_eps": 1e-3, "rope_scaling": MROPE},
    "llama": {"rms_norm_eps": 1e-3},
    "mistral": {"rms_norm_eps": 1e-3, "sliding_window": None},
    "qwen2": {"rms_norm_eps": 1e-3},
}

CLASSES: Mapping[str, tuple[str, str]] = {
    "gemma3": ("gemma3_text", "siglip_vision_model"),
    "qwen2_vl": ("qwen2_vl_text", "qwen2_vl_vision"),
    "qwen2_5_vl": ("qwen2_5_vl_text", "qwen2_5_vl_vision"),
    "idefics3": ("llama", "idefics3_vision"),
    "internvl": ("qwen2", "internvl_vision"),
    "llava": ("llama", "clip_vision_model"),
    "llava_next": ("mistral", "clip_vision_model"),
    "llava_next_video": ("llama", "clip_vision_model"),
    "llava_onevision": ("qwen2", "siglip_vision_model"),
    "mistral3": ("mistral", "pixtral"),
    "smolvlm": ("llama", "smolvlm_vision"),
    "video_llava": ("llama", "clip_vision_model"),
    "vipllava": ("llama", "clip_vision_model"),
}


MORE_TEXTS = {
    "gemma3": ("gemma", ""),
    "llava": ("gemma2", ""),
    "mistral3": ("ministral3", ""),
    "llava_onevision": ("qwen3", ""),
}


def config_of(name: str, *, tied: bool, text: str | None = None) -> dict[str, Any]:
    inner, vision = CLASSES[name]
    text = text or inner
    seen = {**VISION, "model_type": vision}
    if vision == "internvl_vision":
        seen |= {"image_size": [16, 16], "patch_size": [4, 4]}
    if text.startswith("qwen2_"):
        seen = {**QWEN_VISION, "model_type": vision}
    sizes = {key: value for key, value in SIZES.items() if key != "rope_theta"}
    return {
        "model_type": name,
        "text_config": {**sizes, **TEXTS[text], "model_type": text, "tie_word_embeddings": tied},
        "vision_config": seen,
        "tie_word_embeddings": tied,
        "image_token_index": 5,
        "image_token_id": 5,
        "video_token_index": 6,
        "video_token_id": 6,
        "vision_feature_layer": [-2, -1] if name == "vipllava" else -1,
        "pad_token_id": 0,
    }


def write_multimodal(directory: Path, name: str, *, tied: bool = False, text: str | None = None) -> Any:
    """Write a tiny model of a multimodal class with strong random weights; return the stock model in float64."""
    stated = config_of(name, tied=tied, text=text)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**stated)).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(strong(key, tuple(parameter.shape), random))
    model.save_pretrained(directory)
    whole = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float64, attn_implementation="sdpa")
    return whole.eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_the_text_is_what_the_whole_class_makes_of_it(tmp_path: Path, name: str, *, tied: bool) -> None:
    model = write_multimodal(tmp_path / "source", name, tied=tied)
    opened, tokens = kept.open_model(tmp_path / "source"), some_tokens() + 4
    tokens = tokens.clamp(max=96)
    with torch.inference_mode():
        wanted = model(tokens).logits
    assert worst(logits(opened.program, tokens), wanted) < ROTATED_IN_FLOAT32
    one = opened.program.weights["layers.1.mlp_norm.gain"]
    wrong = {"layers.1.mlp_norm.gain": Full(one.shape, one.dtype, 1.0)}
    assert worst(logits(opened.program.updated(opened.program.spec, wrong), tokens), wanted) > 100 * ROTATED_IN_FLOAT32
    assert opened.family.name == FAMILY_OF.get(CLASSES[name][0], CLASSES[name][0])
    note = opened.notes[0]
    assert "neither read nor copied: " in note
    assert f"the text model of {name} is read: promises hold for text" in opened.notes[1]


def test_the_classes_are_all_those_that_are_read() -> None:
    assert {*CLASSES} == {*TEXT_OF}


def test_a_type_without_a_text_type_has_the_one_of_transformers() -> None:
    for name, text in TEXT_OF.items():
        assert CONFIG_MAPPING[name]().text_config.model_type == text, name


@pytest.mark.parametrize("text", DEFAULTS)
def test_absent_keys_mean_what_they_mean_to_transformers(text: str) -> None:
    """Old files state only the keys of `text_config` that differ from the class's defaults."""
    whole = next(name for name, (inner, _) in (*CLASSES.items(), *MORE_TEXTS.items()) if inner == text)
    part = text_part({"model_type": whole, "text_config": {"model_type": text}}, {}, FAMILIES)
    theirs = text_part({"model_type": whole, "text_config": CONFIG_MAPPING[text]().to_dict()}, {}, FAMILIES)
    family = FAMILIES[part.config["model_type"]]
    assert family.read_config(part.config) == family.read_config(theirs.config)


def test_mistral3_has_a_text_model_that_scales_queries(tmp_path: Path) -> None:
    """The contract's 24 tokens reach past the first 10 positions, where the factor is 1."""
    model = write_multimodal(tmp_path / "source", "mistral3", text="ministral3")
    opened, tokens = kept.open_model(tmp_path / "source"), some_tokens()
    with torch.inference_mode():
        assert worst(logits(opened.program, tokens), model(tokens).logits) < ROTATED_IN_FLOAT32
    assert opened.family.name == "ministral3"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_qwen2_vl_as_it_was_published(tmp_path: Path, name: str) -> None:
    """Text keys at the top level, tensors of the text model under `model.`; M-RoPE is plain RoPE on text."""
    model = write_multimodal(tmp_path / "new", name)
    config = read_json(tmp_path / "new" / "config.json")
    section = config["text_config"]["rope_parameters"]
    assert section["mrope_section"] == [2, 3, 3]
    text = {k: v for k, v in config["text_config"].items() if k not in {"rope_parameters", "model_type"}}
    flat = {**config, **text, "rope_theta": section["rope_theta"], "rope_scaling": MROPE}
    del flat["text_config"]
    (tmp_path / "flat").mkdir()
    save_file(tensors_of(tmp_path / "new"), tmp_path / "flat" / "model.safetensors")
    (tmp_path / "flat" / "config.json").write_text(json.dumps(flat), encoding="utf-8")
    opened, tokens = kept.open_model(tmp_path / "flat"), some_tokens()
    with torch.inference_mode():
        assert worst(logits(opened.program, tokens), model(tokens).logits) < ROTATED_IN_FLOAT32
    done = kept.convert(tmp_path / "flat", tmp_path / "out", to="llama", verify_tokens=16)
    assert worst(stock_logits(tmp_path / "out", tokens), logits(opened.program, tokens)) < ROTATED_IN_FLOAT32
    assert done.record["source"]["left_out"] == ["visual.*"]
    assert any("promises hold for text" in note for note in done.record["source"]["notes"])


def test_paligemma_attends_to_its_prompt_in_both_directions(tmp_path: Path) -> None:
    """Why it is refused: another last token changes the stock class's logits at the first."""
    config = {**config_of("gemma3", tied=True, text="gemma"), "model_type": "paligemma", "projection_dim": 64}
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config)).eval()
    tokens = some_tokens(1)
    other = torch.cat((tokens[:, :-1], tokens[:, -1:] - 1), dim=1)
    with torch.inference_mode():
        assert not torch.equal(model(tokens).logits[:, 0], model(other).logits[:, 0])
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"model_type 'paligemma' attends to its prompt in both directions.*take"):
        kept.open_model(tmp_path)


def test_both_layouts_of_names_and_what_is_written(tmp_path: Path) -> None:
    model = write_multimodal(tmp_path / "old", "mistral3")
    stored = tensors_of(tmp_path / "old")
    assert any(name.startswith("language_model.model.layers.") for name in stored)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_bytes((tmp_path / "old" / "config.json").read_bytes())
    save_file({name: t.float().clone() for name, t in model.state_dict().items()}, tmp_path / "new/model.safetensors")
    tokens = some_tokens()
    wanted = logits(kept.open_model(tmp_path / "old").program, tokens)
    assert torch.equal(logits(kept.open_model(tmp_path / "new").program, tokens), wanted)
    done = kept.convert(tmp_path / "old", tmp_path / "out", to="same", verify_tokens=16)
    config = read_json(tmp_path / "out" / "config.json")
    assert config["model_type"] == "mistral"
    assert not {"text_config", "vision_config"} & config.keys()
    assert worst(stock_logits(tmp_path / "out", tokens), wanted) < ROTATED_IN_FLOAT32
    assert done.record["source"]["left_out"] == ["multi_modal_projector.*", "vision_tower.*"]


@pytest.mark.parametrize(
    ("whole", "text"),
    [("qwen3_vl", "qwen3_vl_text"), ("mistral3", "mistral4"), ("aya_vision", "cohere2")],
)
def test_another_multimodal_model_is_named_as_one(tmp_path: Path, whole: str, text: str | None) -> None:
    write_multimodal(tmp_path / "source", "mistral3")
    file = tmp_path / "source" / "config.json"
    change_json(file, model_type=whole, text_config={**read_json(file)["text_config"], "model_type": text})
    with pytest.raises(CheckpointError) as caught:
        kept.open_model(tmp_path / "source")
    said = str(caught.value)
    assert f"model_type {whole!r} is multimodal, with a text model of type {text!r}" in said
    assert "did you mean" not in said
    assert whole not in FAMILIES


@pytest.mark.parametrize("key", ["quantization_config", "compression_config", "quantization"])
def test_how_the_whole_is_quantised_holds_for_its_text(tmp_path: Path, key: str) -> None:
    write_multimodal(tmp_path / "source", "mistral3")
    change_json(tmp_path / "source" / "config.json", **{key: {"quant_method": "bitnet"}})
    with pytest.raises(CheckpointError, match=rf"{key}: quantised weights \(bitnet\) are not read"):
        kept.open_model(tmp_path / "source")

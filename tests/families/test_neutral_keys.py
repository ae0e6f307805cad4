"""Keys that change the function of any model: refused by name in every family unless they have no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.families.unread import NEUTRAL, QUANTISED
from kept.loaded import open_model
from support.logits import program_of, some_tokens, stock
from support.models import frequencies, write_checkpoint
from support.stored import change_json, tensors_of
from support.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path

NAMES = sorted(FAMILIES)


def refusal(family: str, **changes: Any) -> str:
    """Return the error message for a changed config; the unchanged config is accepted."""
    FAMILIES[family].read_config(TINY[family])
    with pytest.raises(CheckpointError) as caught:
        FAMILIES[family].read_config({**TINY[family], **changes})
    line = str(caught.value)
    assert line.startswith("config.json: ")
    assert line.isprintable()
    return line


METHODS: dict[str, dict[str, Any]] = {
    name: {"quant_method": name}
    for line in (
        "aqlm auto-round awq bitnet bitsandbytes compressed-tensors eetq fbgemm_fp8 finegrained_fp8 fp8 gptq",
        "higgs hqq modelopt mxfp4 quanto quark sinq spqr torchao vptq",
    )
    for name in line.split()
}
METHODS["bitnet"] |= {"linear_class": "autobitlinear", "quantization_mode": "online"}


@pytest.mark.parametrize("name", NAMES)
def test_a_quantised_checkpoint_is_refused_by_its_method(name: str) -> None:
    for method, stated in METHODS.items():
        said = refusal(name, quantization_config=stated)
        assert f"quantization_config: quantised weights ({method}) are not read" in said
        assert "use the unquantised checkpoint, or dequantise it with the library that wrote it" in said


@pytest.mark.parametrize(
    ("key", "stated", "method"),
    [
        ("quantization_config", {"load_in_4bit": True}, "bitsandbytes"),
        ("quantization_config", {"bits": 4}, "unnamed method"),
        ("quantization_config", "gptq", "unnamed method"),
        ("quantization_config", {"quant_method": 7}, "unnamed method"),
        ("quantization_config", {"quant_algo": "FP8"}, "FP8"),
        ("compression_config", {"format": "pack-quantized"}, "compressed-tensors"),
        ("quantization", {"group_size": 64, "bits": 4}, "mlx"),
    ],
)
def test_where_else_a_method_stands(key: str, stated: object, method: str) -> None:
    assert f"{key}: quantised weights ({method})" in refusal("llama", **{key: stated})


@pytest.mark.parametrize("key", QUANTISED)
@pytest.mark.parametrize("nothing", [None, {}])
def test_no_quantisation_is_none(key: str, nothing: object) -> None:
    FAMILIES["llama"].read_config({**TINY["llama"], key: nothing})


OTHER = {
    "is_causal": False,
    "use_bidirectional_attention": True,
    "is_encoder_decoder": True,
    "add_cross_attention": True,
    "cross_attention_hidden_size": 64,
    "attention_chunk_size": 8,
    "num_kv_shared_layers": 1,
    "alibi": True,
    "use_alibi": True,
    "per_layer_config": {"0": {"rms_norm_eps": 0.5}},
    "pruned_heads": {"0": [1]},
    "configuration_files": ["config.4.0.0.json"],
    "attribute_map": {"hidden_size": "n_embd"},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", NEUTRAL)
def test_a_key_that_changes_any_model(name: str, key: str) -> None:
    assert f"{key} is {str(OTHER[key])[:10]}"[:40] in refusal(name, **{key: OTHER[key]}).replace("'", "'")
    for nothing in (None, *NEUTRAL[key][0]):
        FAMILIES[name].read_config({**TINY[name], key: nothing})


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma", "phi", "orion"])
@pytest.mark.parametrize("size", [7, 127, 0, True, "8", 7.0])
def test_a_window_in_a_family_without_windows(name: str, size: object) -> None:
    assert "sliding_window is " in refusal(name, sliding_window=size)
    FAMILIES[name].read_config({**TINY[name], "sliding_window": 128})


@pytest.mark.parametrize("kind", ["sliding_attention", "chunked_attention", "linear_attention"])
def test_types_of_layers_in_a_family_without_them(kind: str) -> None:
    full = ["full_attention"] * 3
    FAMILIES["llama"].read_config({**TINY["llama"], "layer_types": full})
    assert "layer_types is " in refusal("llama", layer_types=[*full[1:], kind])


@pytest.mark.parametrize("key", ["sliding_window", "attention_chunk_size"])
def test_why_transformers_cache_obeys_them(key: str, tmp_path: Path) -> None:
    """Llama's layers ignore these keys but its KV cache obeys them: token by token its logits differ from one pass."""
    directory, tokens = write_checkpoint(tmp_path, "llama"), some_tokens(1, 20)
    for stated, same in ((None, True), (4, False)):
        change_json(directory / "config.json", **{key: stated})
        model = stock(directory, torch.float32)
        with torch.inference_mode():
            whole, step = model(tokens).logits[0, -1], model(tokens[:, :12], use_cache=True)
            for at in range(12, 20):
                step = model(tokens[:, at : at + 1], past_key_values=step.past_key_values, use_cache=True)
        assert ((step.logits[0, -1] - whole).abs().max() < 1e-3) == same


GPT2_ALIASES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}


@pytest.mark.parametrize(("alias", "key"), [*GPT2_ALIASES.items(), ("max_position_embeddings", "n_positions")])
def test_another_name_of_a_key(alias: str, key: str) -> None:
    family, config = FAMILIES["gpt2"], dict(TINY["gpt2"])
    spec = family.read_config(config)
    value = config.pop(key)
    assert family.read_config({**config, alias: value}) == spec
    assert family.read_config({**config, key: value, alias: value}) == spec
    assert f"{alias} is {2 * value}, it must be {value} or absent: " in refusal("gpt2", **{alias: 2 * value})


def test_falcon_s_older_name_of_its_width() -> None:
    config = dict(TINY["falcon"])
    width = config.pop("hidden_size")
    assert FAMILIES["falcon"].read_config({**config, "n_embed": width}).width == width
    assert "n_embed is 32" in refusal("falcon", n_embed=32)


FREQUENCIES = "model.layers.{}.self_attn.rotary_emb.inv_freq"


def write_frequencies(directory: Path, theta: float, **config: Any) -> Path:
    """Write a Llama that stores inv_freq in every layer, as early checkpoints do."""
    write_checkpoint(directory, "llama", **config)
    more = {FREQUENCIES.format(layer): frequencies(theta) for layer in range(3)}
    save_file({**tensors_of(directory), **more}, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_stored_frequencies_must_be_those_of_the_config(tmp_path: Path) -> None:
    directory = write_frequencies(tmp_path, 1000.0)
    assert program_of(directory).spec == program_of(write_checkpoint(tmp_path / "plain", "llama")).spec
    write_frequencies(tmp_path, 1000.0 * 1.2)
    with pytest.raises(CheckpointError, match=r"rotary_emb\.inv_freq: differs from the RoPE frequencies of the config"):
        open_model(directory)


def test_stored_frequencies_may_be_rounded(tmp_path: Path) -> None:
    directory = write_frequencies(tmp_path, 1000.0)
    stored = tensors_of(directory)
    rounded = {name: t.bfloat16() if name.endswith("inv_freq") else t for name, t in stored.items()}
    save_file(rounded, directory / "model.safetensors", metadata={"format": "pt"})
    program_of(directory)

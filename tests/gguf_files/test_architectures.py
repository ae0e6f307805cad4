"""For each architecture, a GGUF file written by the converter's rules gives the weights of its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kept.errors import CheckpointError
from kept.gguf.architectures import ARCHITECTURES
from kept.ir.facts import facts
from kept.loaded import open_model
from support import gguf_rules, ggufs
from support.logits import logits, program_of, some_tokens, worst
from support.models import write_checkpoint
from support.tiny import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.ir.program import Program

ROPE = {"rope_theta": 1000.0}

LONG = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i / 4 for i in range(8)]}

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "baichuan": ("baichuan", {}),
    "cohere": ("cohere", {}),
    "cohere, norms of heads": ("cohere", {"use_qk_norm": True}),
    "deci": ("deci", {}),
    "exaone": ("exaone", {}),
    "falcon, two norms": ("falcon", {}),
    "falcon, one norm": ("falcon", {"num_ln_in_parallel_attn": 1}),
    "falcon, one key": ("falcon", {"new_decoder_architecture": False, "multi_query": True}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox, in sequence": ("gpt_neox", {"use_parallel_residual": False}),
    "granite": ("granite", {}),
    "internlm2": ("internlm2", {}),
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("llama", {"head_dim": 32}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, **ROPE}}),
    "llama, yarn": (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, **ROPE}},
    ),
    "minicpm": ("minicpm", {}),
    "mistral": ("mistral", {}),
    "nemotron": ("nemotron", {}),
    "nemotron, biases": ("nemotron", {"attention_bias": True, "mlp_bias": True}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "orion": ("orion", {}),
    "phi": ("phi", {"num_key_value_heads": 4}),
    "phi3": ("phi3", {}),
    "phi3, window": ("phi3", {"sliding_window": 8}),
    "qwen": ("qwen", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 4, "num_hidden_layers": 4}),
    "stablelm": ("stablelm", {}),
    "stablelm, all": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
    "starcoder2": ("starcoder2", {}),
    "xverse": ("xverse", {"num_key_value_heads": 4}),
}


@pytest.fixture(params=list(CASES), scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a checkpoint and its GGUF file."""
    family, changes = CASES[request.param]
    directory = write_checkpoint(tmp_path_factory.mktemp("gguf") / "checkpoint", family, **changes)
    return directory, ggufs.write(directory.with_suffix(".gguf"), ggufs.made_of(directory, family))


def test_it_is_the_checkpoint_that_it_was_made_from(pair: tuple[Path, Path]) -> None:
    directory, file = pair
    before, after = program_of(directory), open_model(file).program
    assert architecture(after) == architecture(before)
    for slot, tensor in before.weights.items():
        gained = slot.endswith("gain") and after.weights[slot].dtype == "F32"  # after + 1 and - 1
        torch.testing.assert_close(
            after.weights[slot].value(), tensor.value(), rtol=0, atol=1e-7 if gained else 0, msg=slot
        )


def architecture(program: Program) -> dict[str, Any]:
    """Return the facts of a program without the special tokens; these files have no tokenizer."""
    return {path: value for path, value in facts(program.spec).items() if not path.startswith("tokens.")}


def test_every_architecture_has_a_case() -> None:
    assert {gguf_rules.architecture_of(family) for family, _ in CASES.values()} == {*ARCHITECTURES}


def test_rows_that_are_not_put_back_would_show(tmp_path: Path) -> None:
    """Negative control: query rows in another order change the logits."""
    directory = write_checkpoint(tmp_path / "llama", "llama")
    made = ggufs.made_of(directory, "llama")
    right = open_model(ggufs.write(tmp_path / "right.gguf", made)).program
    q = made.tensors["blk.1.attn_q.weight"]
    made.tensors["blk.1.attn_q.weight"] = np.ascontiguousarray(q[::-1])
    wrong = open_model(ggufs.write(tmp_path / "wrong.gguf", made)).program
    tokens = some_tokens()
    assert worst(logits(right, tokens), logits(program_of(directory), tokens)) < 1e-9
    assert worst(logits(wrong, tokens), logits(program_of(directory), tokens)) > 0.1


@pytest.mark.parametrize("family", ["llama", "llama, tied", "llama, wide heads", "qwen2"])
def test_transformers_reads_the_same(family: str, tmp_path: Path) -> None:
    """Independent reference: transformers' GGUF loader, for the architectures that it reads completely."""
    directory = write_checkpoint(tmp_path / "checkpoint", CASES[family][0], **CASES[family][1])
    made = ggufs.made_of(directory, CASES[family][0])
    made.keys["vocab_size"] = VOCABULARY
    ggufs.write(tmp_path / "model.gguf", made)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float64)
    tokens = some_tokens()
    with torch.inference_mode():
        wanted = theirs.eval()(tokens).logits
    assert worst(logits(open_model(tmp_path / "model.gguf").program, tokens), wanted) < 1e-5


@pytest.mark.parametrize(
    ("theta", "factor", "high", "length", "head"),
    [(500_000.0, 8.0, 4.0, 8192, 128), (500_000.0, 32.0, 4.0, 8192, 64), (1_000_000.0, 8.0, 4.0, 8192, 80)],
)
def test_divisors_of_frequencies_are_llama_3s_rule_again(
    theta: float, factor: float, high: float, length: int, head: int, tmp_path: Path
) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": length,
    }
    sizes = {"head_dim": head, "max_position_embeddings": 131_072}
    directory = write_checkpoint(tmp_path / "llama", "llama", rope_parameters=rope, **sizes)  # type: ignore[arg-type]
    made = ggufs.made_of(directory, "llama")
    made.tensors["rope_freqs.weight"] = _divisors(theta, factor, high, length, head)
    file = ggufs.write(tmp_path / "llama.gguf", made)
    assert architecture(open_model(file).program) == architecture(program_of(directory))


def _divisors(theta: float, factor: float, high: float, length: int, head: int) -> np.ndarray[Any, Any]:
    """Return Llama 3's RoPE divisors as the converter writes them, in float32."""
    found = []
    for frequency in 1.0 / (theta ** (torch.arange(0, head, 2, dtype=torch.float32) / head)):
        wavelength = 2 * torch.pi / frequency
        if wavelength < length / high:
            found.append(1.0)
        elif wavelength > length:
            found.append(factor)
        else:
            smooth = (length / wavelength - 1) / (high - 1)
            found.append(float(1 / ((1 - smooth) / factor + smooth)))
    return np.array(found, np.float32)


def test_other_divisors_hold_for_every_length(tmp_path: Path) -> None:
    """Divisors that follow no known rule become LongRoPE lists that are equal for short and long sequences."""
    directory = write_checkpoint(tmp_path / "llama", "llama")
    made = ggufs.made_of(directory, "llama")
    made.tensors["rope_freqs.weight"] = np.array([1, 1, 3, 2, 5, 1, 1, 7], np.float32)
    config = open_model(ggufs.write(tmp_path / "llama.gguf", made)).config["rope_scaling"]
    assert config["rope_type"] == "longrope"
    assert config["short_factor"] == config["long_factor"] == [1, 1, 3, 2, 5, 1, 1, 7]
    assert (config["attention_factor"], config["factor"]) == (1.0, 1.0)


def test_phi3s_long_lists(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **LONG}
    sizes = {"original_max_position_embeddings": 64, "max_position_embeddings": 128}
    directory = write_checkpoint(tmp_path / "phi3", "phi3", rope_parameters=rope, **sizes)  # type: ignore[arg-type]
    made = ggufs.made_of(directory, "phi3")
    for name, values in LONG.items():
        made.tensors[f"rope_factors_{name.removesuffix('_factor')}.weight"] = np.array(values, np.float32)
    made.keys["rope.scaling.attn_factor"] = (1 + np.log(2) / np.log(64)) ** 0.5
    found = open_model(ggufs.write(tmp_path / "phi3.gguf", made)).program
    assert architecture(found) == architecture(program_of(directory))


def test_fused_projections_of_a_family_that_has_them_apart(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "llama", "llama")
    made = ggufs.made_of(directory, "llama")
    for layer in range(3):
        parts = [made.tensors.pop(f"blk.{layer}.attn_{part}.weight") for part in "qkv"]
        made.tensors[f"blk.{layer}.attn_qkv.weight"] = np.concatenate(parts)
    found = open_model(ggufs.write(tmp_path / "fused.gguf", made)).program
    for slot, tensor in program_of(directory).weights.items():
        assert torch.equal(found.weights[slot].value(), tensor.value()), slot


def test_a_size_that_is_listed_for_each_layer_and_is_the_same(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "llama", "llama")
    made = ggufs.made_of(directory, "llama")
    plain = open_model(ggufs.write(tmp_path / "plain.gguf", made)).program
    made.keys["attention.head_count_kv"] = [made.keys["attention.head_count_kv"]] * 3
    assert open_model(ggufs.write(tmp_path / "listed.gguf", made)).program.spec == plain.spec


REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "an unread key": ({"attention.sliding_window": 7}, r"llama\.attention\.sliding_window is 7: it may change"),
    "experts": ({"expert_count": 8}, "mixtures of experts are not supported"),
    "an encoder": ({"attention.causal": False}, "encoders are not supported"),
    "two sizes": ({"attention.value_length": 8}, "different sizes of keys and values"),
    "half a head": ({"rope.dimension_count": 8}, r"llama\.rope\.dimension_count is 8, it must be 16"),
    "a scaling": ({"rope.scaling.type": "ntk"}, r"llama\.rope\.scaling\.type is ntk"),
    "no epsilon": ({"attention.layer_norm_rms_epsilon": None}, r"has no llama\.attention\.layer_norm_rms_epsilon"),
    "no depth": ({"block_count": None}, r"has no llama\.block_count"),
    "text for a size": ({"embedding_length": "64"}, r"llama\.embedding_length is 64, it must be a positive integer"),
    "heads that do not fit": ({"attention.head_count_kv": 3}, "divisor of the 4 query heads"),
    "heads by layer": ({"attention.head_count": [4, 4, 2]}, "the same for every layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, said = REFUSED[case]
    directory = write_checkpoint(tmp_path / "llama", "llama")
    made = ggufs.made_of(directory, "llama")
    made.keys.update(changes)
    for key in [key for key, value in made.keys.items() if value is None]:
        del made.keys[key]
    file = ggufs.write(tmp_path / "llama.gguf", made)
    with pytest.raises(CheckpointError, match=said) as error:
        open_model(file)
    assert str(file) in str(error.value)


def test_an_architecture_that_is_not_mapped_is_named(tmp_path: Path) -> None:
    file = ggufs.write(tmp_path / "rwkv.gguf", ggufs.Made("rwkv7", {"block_count": 2}, {}))
    with pytest.raises(CheckpointError, match=r"general\.architecture is 'rwkv7'; supported are llama,"):
        open_model(file)

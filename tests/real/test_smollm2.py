"""SmolLM2-135M-Instruct: the quantised GGUF file converted to every exact target and run by transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import kept
from kept.checkpoint.chat_template import Conversation, Template
from support import gguf_vocabularies
from support.golden import GOLDENS
from support.logits import worst

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROOT = Path(__file__).resolve().parents[2]

FILE = ROOT / "out" / "SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FILE.is_file(), reason="needs the real model: make smollm2 fetches it"),
]

TARGETS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}

TALK = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Korea?"},
]

GOLDEN: dict[str, list[int]] = json.loads((GOLDENS / "smollm2-ids.json").read_text(encoding="utf-8"))["texts"]
"""llama.cpp's ids of texts, written by `compat/gguf_files.py --golden`."""

TOKENS = torch.tensor([[one for text in gguf_vocabularies.TEXTS[:5] for one in GOLDEN[text]]])
"""Token ids (1, T) of English, code, numbers, Korean and Chinese."""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the model to each target in float32; return their common directory."""
    folder = tmp_path_factory.mktemp("smollm2")
    for target in TARGETS:
        kept.convert(FILE, folder / target, to=target, dtype="float32", verify_tokens=0)
    return folder


@torch.inference_mode()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model.eval()(TOKENS).logits


@cache
def independent(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the logits of a stock Llama whose weights are dequantised by the gguf package and permuted here."""
    reader = gguf.GGUFReader(FILE)
    state = {_name(tensor.name): _rows(tensor) for tensor in reader.tensors}
    config = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict({k: v.to(dtype) for k, v in state.items()}, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    return logits(model)


NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}


def _name(theirs: str) -> str:
    *at, last, kind = theirs.replace("blk.", "layers.").split(".")
    return ".".join(("model", *at, NAMES[last], kind))


def _rows(tensor: Any) -> torch.Tensor:
    values = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
    heads = {"attn_q": 9, "attn_k": 3}.get(tensor.name.split(".")[-2])
    if heads is None:
        return values
    pairs = values.view(heads, 32, 2, 576)
    return torch.cat((pairs[:, :, 0], pairs[:, :, 1]), dim=1).reshape(values.shape)


@pytest.mark.parametrize("target", TARGETS)
def test_every_exact_target_has_the_logits_of_an_independent_dequantisation(target: str, converted: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted / target, dtype=torch.float32)
    assert type(model).__name__ == TARGETS[target]
    assert worst(logits(model), independent()) < 1e-5


def test_latent_attention_has_the_logits_of_a_llama_to_the_bit(tmp_path: Path) -> None:
    """In bfloat16, through the stock classes and their eager attention."""
    found = {}
    for target in ("llama", "deepseek_v3"):
        kept.convert(FILE, tmp_path / target, to=target, dtype="bfloat16", verify_tokens=0)
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / target, dtype=torch.bfloat16, attn_implementation="eager"
        )
        found[type(model).__name__] = logits(model)
    assert torch.equal(found["LlamaForCausalLM"], found["DeepseekV3ForCausalLM"])


def test_in_bfloat16_each_weight_is_rounded_once(tmp_path: Path) -> None:
    done = kept.convert(FILE, tmp_path / "out", verify_tokens=0)
    assert done.plan.promise == "exact"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    stored = gguf.GGUFReader(FILE).get_tensor(4)
    rounded = _rows(stored).to(torch.bfloat16).float()
    assert torch.equal(dict(model.named_parameters())[_name(stored.name)], rounded)
    assert done.record["source"]["quantised"] == "Q4_1 (210 tensors), F32 (61 tensors), Q8_0 (1 tensor)"
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert 'license: "apache-2.0"' in card
    assert "stored as Q4_1 (210 tensors)" in card


def test_only_what_is_exact_is_claimed_to_be() -> None:
    reached = {reach.target for reach in kept.inspect(FILE).targets if reach.promise == "exact"}
    assert reached == {*TARGETS, "deepseek_v2", "deepseek_v3", "kept", "minicpm3", "youtu"}


def test_ids_are_llama_cpps(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted / "llama")
    assert {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in gguf_vocabularies.TEXTS} == GOLDEN
    assert [tokenizer.decode(GOLDEN[text]) for text in gguf_vocabularies.TEXTS[:10]] == [*gguf_vocabularies.TEXTS[:10]]


def test_the_chat_template_is_rendered_as_transformers_renders_it(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted / "llama")
    template = Template.of(converted / "llama")
    assert template is not None
    for talk, prompt in ((TALK, True), (TALK[:2], False)):
        wanted = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt)
        assert template.render(Conversation(talk), prompt=prompt) == wanted
    assert "<|im_start|>user\nWhat is the capital of France?<|im_end|>" in wanted


def test_it_answers(converted: Path) -> None:
    """Generate greedily in float32 with stock transformers and with kept's model."""
    tokenizer = AutoTokenizer.from_pretrained(converted / "llama")
    prompt = tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True)
    model = AutoModelForCausalLM.from_pretrained(converted / "llama", dtype=torch.float32)
    given = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    out = model.generate(**given, do_sample=False, max_new_tokens=12)[0][given["input_ids"].shape[1] :]  # type: ignore[misc]
    assert tokenizer.decode(out) == "The capital of France is Paris.<|im_end|>"
    assert kept.generate(FILE, prompt, max_new_tokens=12)[0].text == "The capital of France is Paris."  # type: ignore[arg-type]


def test_the_file_itself_is_verified_against_what_was_made_of_it(converted: Path) -> None:
    found = kept.verify(FILE, converted / "llama", tokens=16)
    assert found.failure is None
    assert found.promise == "exact"
    assert found.identical

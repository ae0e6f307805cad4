"""Our own class computes what `kept.nn` and the stock class of the source compute, however transformers calls it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from kept.families.native import KEPT
from kept.ir import spec as ir
from kept.native.configuration_kept import KeptConfig
from kept.native.modeling_kept import KeptForCausalLM, left_padding
from native.conftest import SOURCES
from support.conversions import STOCK
from support.logits import logits, program_of, some_tokens, worst

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from native.conftest import BothClasses

PADS = (0, 3, 7, 1)
"""Padding at the left of each row of a batch."""


def padded_batch(length: int = 12) -> tuple[Tensor, Tensor]:
    """Token ids and mask of a batch with padding on the left."""
    mask = torch.arange(length)[None] >= torch.tensor(PADS)[:, None]
    return some_tokens(len(PADS), length).masked_fill(~mask, 0), mask.long()


def greedy(model: Any, tokens: Tensor, mask: Tensor | None = None, count: int = 24, **options: Any) -> Tensor:
    mask = torch.ones_like(tokens) if mask is None else mask
    found: Tensor = model.generate(
        tokens, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None, **options
    )
    return found[:, tokens.shape[1] :]


# ------------------------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("name", SOURCES)
def test_logits(models: dict[str, BothClasses], name: str) -> None:
    """Those of `kept.nn` to the bit, and those of the stock class, whose angles are computed in float32."""
    both, tokens = models[name], some_tokens()
    with torch.inference_mode():
        found, theirs = (model(tokens).logits for model in (both.own(), both.stock()))
    assert torch.equal(found, logits(both.program, tokens))
    assert worst(found, theirs) < (1e-9 if name == "gpt2" else 4 * STOCK)


def test_a_rank_per_layer(tmp_path: Path, models: dict[str, BothClasses]) -> None:
    """No stock class holds it."""
    both, tokens = models["deepseek_v3"], some_tokens()
    first, *rest = both.program.spec.layers
    assert isinstance(first.mixer, ir.LatentAttention)
    lower = replace(first.mixer, kv_rank=first.mixer.kv_rank // 2)
    spec = replace(both.program.spec, layers=(replace(first, mixer=lower), *rest))
    model = from_spec(spec)
    model.save_pretrained(tmp_path / "ranks")
    program = program_of(tmp_path / "ranks")
    assert program.spec == spec
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, logits(program, tokens))


def from_spec(spec: ir.Spec) -> Any:
    torch.manual_seed(0)
    config = KeptConfig(**{key: value for key, value in KEPT.write_config(spec, "F64").items() if "dtype" not in key})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    assert type(model) is KeptForCausalLM
    return model


def test_new_weights_are_drawn_and_loaded_ones_are_not(llama: BothClasses) -> None:
    model = from_spec(llama.program.spec)
    assert 0.01 < float(model.layers[0].mixer.q.weight.detach().std()) < 0.03
    assert torch.equal(model.final_norm.gain, torch.ones_like(model.final_norm.gain))
    stored = load_file(llama.output / "model.safetensors")
    loaded = llama.own().state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())


def test_positions_are_those_that_are_given(llama: BothClasses) -> None:
    model, tokens = llama.own(), some_tokens(1, 8)
    steps = torch.arange(8)[None]
    with torch.inference_mode():
        plain = model(tokens).logits
        assert torch.equal(model(tokens, position_ids=steps).logits, plain)
        assert worst(model(tokens, position_ids=2 * steps, attention_mask=torch.ones_like(tokens)).logits, plain) > 0.1


def test_documents_of_a_packed_row_do_not_see_each_other(llama: BothClasses) -> None:
    model, tokens = llama.own(), some_tokens(1, 9)
    with torch.inference_mode():
        alone = torch.cat([model(tokens[:, :4]).logits, model(tokens[:, 4:]).logits], dim=1)
        packed = model(tokens, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])).logits
        together = model(tokens).logits
    assert worst(packed, alone) < 1e-9
    assert worst(together, alone) > 0.1


def test_hidden_states_embeddings_and_kept_logits(llama: BothClasses) -> None:
    own, theirs, tokens = llama.own(), llama.stock(), some_tokens(2, 6)
    with torch.inference_mode():
        found, wanted = (model(tokens, output_hidden_states=True) for model in (own, theirs))
        assert len(found.hidden_states) == len(wanted.hidden_states)
        for ours, other in zip(found.hidden_states, wanted.hidden_states, strict=True):
            assert worst(ours, other) < STOCK
        assert torch.equal(own(inputs_embeds=own.get_input_embeddings()(tokens)).logits, found.logits)
        assert worst(own(tokens, logits_to_keep=1).logits, found.logits[:, -1:]) < 1e-12
        assert torch.equal(own(tokens, return_dict=False)[0], found.logits)


# --------------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("name", SOURCES)
def test_greedy_text_of_a_padded_batch(models: dict[str, BothClasses], name: str) -> None:
    """The stock class's, and each row's own: no state has seen the padding. In float32, as stock masks need it."""
    own, (tokens, mask) = models[name].own(torch.float32), padded_batch()
    found = greedy(own, tokens, mask)
    assert torch.equal(found, greedy(models[name].stock(torch.float32), tokens, mask))
    assert len(found.unique()) > 3, "text that repeats itself would prove little"
    for row, pad in enumerate(PADS):
        assert torch.equal(found[row : row + 1], greedy(own, tokens[row : row + 1, pad:]))
    assert not torch.equal(found[1:], greedy(own, tokens)[1:]), "a mask that is left out shows"


def test_other_ways_to_generate(llama: BothClasses) -> None:
    own, theirs, (tokens, mask) = llama.own(), llama.stock(), padded_batch()
    beams: dict[str, Any] = {"num_beams": 3, "count": 12}
    assert torch.equal(greedy(own, tokens, mask, **beams), greedy(theirs, tokens, mask, **beams))
    plain = greedy(own, tokens[:1])
    for options in ({"assistant_model": own}, {"prompt_lookup_num_tokens": 2}, {"use_cache": False}):
        assert torch.equal(greedy(own, tokens[:1], **options), plain)


def test_a_cached_prompt_is_continued(llama: BothClasses) -> None:
    own, tokens = llama.own(), some_tokens(1, 9)
    with torch.inference_mode():
        prompt = own(tokens[:, :5]).past_key_values
        again = copy.deepcopy(prompt)
        found = own(tokens[:, 5:], past_key_values=prompt).logits
        assert worst(found, own(tokens).logits[:, 5:]) < 1e-9
        assert torch.equal(own(tokens[:, 5:], past_key_values=again).logits, found)
        assert (again.get_seq_length(), again.is_initialized, again.is_compileable) == (9, True, False)
        again.crop(-4)
        assert torch.equal(own(tokens[:, 5:], past_key_values=again).logits, found)
        again.crop(5)
        again.batch_repeat_interleave(2)
        again.reorder_cache(torch.tensor([1, 0]))
        twice = own(tokens[:, 5:].expand(2, -1), past_key_values=again).logits
        assert worst(twice, found.expand(2, -1, -1)) < 1e-9
        again.reset()
        assert again.get_seq_length() == 0


# ----------------------------------------------------------------------------------------------------------- training


def test_the_loss_and_its_gradients(llama: BothClasses) -> None:
    """With padding on the right, as trainers have it; with gradient checkpointing, the same to the bit."""
    own, theirs, tokens = llama.own().train(), llama.stock().train(), some_tokens(2, 10)
    mask = torch.tensor([[1] * 10, [1] * 6 + [0] * 4])
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": tokens.masked_fill(mask == 0, -100)}
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            own.gradient_checkpointing_enable()
        own.zero_grad()
        out = own(**batch)
        assert out.past_key_values is None
        out.loss.backward()
        gradients.append([weight.grad.clone() for weight in own.parameters()])
    assert float(out.loss.detach()) == pytest.approx(float(theirs(**batch).loss.detach()), rel=STOCK)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


# -------------------------------------------------------------------------------------------------- files and refusals


def test_saved_and_read_back(llama: BothClasses, tmp_path: Path) -> None:
    """Byte for byte: weights, code, and the spec in the config."""
    llama.own().save_pretrained(tmp_path / "saved")
    names = [file.name for file in llama.output.iterdir() if file.suffix in {".py", ".safetensors"}]
    assert len(names) > 20
    for name in names:
        assert (tmp_path / "saved" / name).read_bytes() == (llama.output / name).read_bytes(), name
    before, after = (AutoConfig.from_pretrained(path).to_dict() for path in (llama.output, tmp_path / "saved"))
    own = {"_name_or_path", "transformers_version"}
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} <= own
    assert program_of(tmp_path / "saved").spec == program_of(llama.output).spec


def test_a_token_id_that_a_trainer_sets_is_kept(llama: BothClasses, tmp_path: Path) -> None:
    model = llama.own()
    model.config.pad_token_id = 5
    model.save_pretrained(tmp_path / "saved")
    assert program_of(tmp_path / "saved").spec.tokens.pad == 5


def test_what_it_does_not_support(llama: BothClasses) -> None:
    model, tokens = llama.own(), some_tokens(1, 4)
    with pytest.raises(ValueError, match="this model needs the cache that it returns"):
        model(tokens, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="output_attentions"):
        model(tokens, output_attentions=True)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="cache_implementation: is 'static'"):
        greedy(model, tokens, cache_implementation="static")
    with pytest.raises(ValueError, match="kept expand --tokenizer adds tokens"):
        model.resize_token_embeddings(200)
    assert model.resize_token_embeddings(97) is model.get_input_embeddings()


def test_masks() -> None:
    assert left_padding(torch.ones(2, 3), 3) is None
    assert left_padding(torch.tensor([[1, 1, 0], [1, 0, 0]]), 3) is None
    found = left_padding(torch.tensor([[0, 1, 0], [1, 1, 1]]), 3)
    assert found is not None
    assert found.tolist() == [1, 0]
    with pytest.raises(ValueError, match="padding between tokens"):
        left_padding(torch.tensor([[1, 0, 1]]), 3)
    with pytest.raises(ValueError, match=r"has shape \[1, 2\], it must be \[batch, 3\]"):
        left_padding(torch.ones(1, 2), 3)

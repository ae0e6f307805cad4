"""`kept export`: the file computes what the checkpoint does, in kept's reader and in transformers'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM

import kept
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import InputError, OutputError, Refusal
from kept.nn import Model
from support.chats import CHATML
from support.command_line import complains, data, succeeds
from support.ggufs import made_of
from support.models import write_checkpoint
from support.stored import change_json, read_json, write_readable, write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

FORMS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
}

TOKENS = torch.arange(2, 34)[None]


def logits(path: Path, dtype: torch.dtype) -> torch.Tensor:
    with torch.inference_mode():
        model = Model.load(kept.open_model(path).program, dtype)
        found: torch.Tensor = model.logits(model.hidden(TOKENS))
        return found


@pytest.mark.parametrize("family", FORMS)
def test_the_file_computes_the_same(tmp_path: Path, family: str) -> None:
    source, file = write_checkpoint(tmp_path / "source", family, **FORMS[family]), tmp_path / "model.gguf"
    kept.export_gguf(source, file, type="f32")
    expected = logits(source, torch.float64)
    assert (logits(file, torch.float64) - expected).abs().max() < 1e-9 * expected.std()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_transformers_reads_the_same_model(tmp_path: Path, family: str) -> None:
    """Not Qwen3, for which transformers' reader ignores the size of a head."""
    source, file = write_checkpoint(tmp_path / "source", family, **FORMS[family]), tmp_path / "out" / "model.gguf"
    kept.export_gguf(source, file, type="f32")
    before: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    after: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(after(TOKENS).logits, before(TOKENS).logits, rtol=0, atol=1e-5)


def test_rows_in_another_order_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, file = write_checkpoint(tmp_path / "llama", "llama"), tmp_path / "llama.gguf"
    monkeypatch.setattr(
        "kept.gguf.write.Interleaved.rows", lambda self, start, stop, how: self.source.rows(start, stop, how)
    )
    kept.export_gguf(source, file, type="f32")
    assert (logits(file, torch.float64) - logits(source, torch.float64)).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "error"), [("bf16", 0.02), ("f16", 0.002), ("q8_0", 0.03)])
def test_narrower_types_round(tmp_path: Path, kind: str, error: float) -> None:
    source, file = write_checkpoint(tmp_path / "llama", "llama"), tmp_path / "llama.gguf"
    kept.export_gguf(source, file, type=kind)
    kinds = {one.tensor_type.name for one in gguf.GGUFReader(file).tensors}
    assert kinds == {"F32", kind.upper()}
    expected = logits(source, torch.float32)
    apart = (logits(file, torch.float32) - expected).abs().mean() / expected.std()
    assert 0 < apart < error


@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0"])
@pytest.mark.parametrize("family", FORMS)
def test_the_gguf_package_reads_the_weights(tmp_path: Path, family: str, kind: str) -> None:
    """Names and order of rows are those of the converter's rules, values those of each type's rounding."""
    source, file = write_checkpoint(tmp_path / "source", family, **FORMS[family]), tmp_path / "model.gguf"
    kept.export_gguf(source, file, type=kind)
    expected = made_of(source, family).tensors
    found = {one.name: one for one in gguf.GGUFReader(file).tensors}
    assert found.keys() == expected.keys()
    for name, one in found.items():
        values = torch.from_numpy(gguf.quants.dequantize(one.data, one.tensor_type).copy()).view(expected[name].shape)
        given = torch.from_numpy(expected[name])
        narrow = given.ndim > 1 and kind != "f32"
        if narrow and kind == "q8_0":
            step = given.view(-1, 32).abs().amax(1, keepdim=True) / 127
            rounded = (0.5 + 127 * 2**-11) * step  # of up to 127 steps, whose size is a float16
            assert ((values - given).view(-1, 32).abs() <= rounded).all()
            assert not torch.equal(values, given)
        else:
            assert torch.equal(values, given.bfloat16().float() if narrow else given), name


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_a_weight_beyond_the_type_is_refused(tmp_path: Path, kind: str) -> None:
    """The constants of an affine tail would be infinite."""
    source = write_checkpoint(tmp_path / "llama", "llama")
    weights = load_file(source / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = 2.0**43
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"^blk.0.ffn_up.weight: has a weight of 8.8e\+12, {kind} ends at .* bf16"):
        kept.export_gguf(source, tmp_path / "x.gguf", type=kind)
    assert [one.name for one in tmp_path.iterdir()] == ["llama"], "no part of a file is left"
    kept.export_gguf(source, tmp_path / "x.gguf", type="bf16")


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16", "q8_0"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, kind: str, value: float) -> None:
    source = write_checkpoint(tmp_path / "llama", "llama")
    weights = load_file(source / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"^blk.0.ffn_up.weight: has a weight of (nan|inf); kept check names"):
        kept.export_gguf(source, tmp_path / "x.gguf", type=kind)


def test_tokenizers_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    source = write_readable(tmp_path / "llama", "llama")
    vocabulary = {"[UNK]": 0, "a": 1}
    for name, model in {
        "is a Unigram tokenizer; only BPE is written": models.Unigram([("[UNK]", 0.0), ("a", -1.0)], 0),
        "is a WordPiece tokenizer; only BPE is written": models.WordPiece(vocabulary),
        "is a BPE tokenizer without merges, which llama.cpp needs": models.BPE(vocabulary, []),
    }.items():
        Tokenizer(model).save(str(source / "tokenizer.json"))
        with pytest.raises(InputError, match=f"tokenizer.json: {name}.*; run the model in transformers or vLLM$"):
            kept.export_gguf(source, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_tokenizer_and_template_are_in_the_file(tmp_path: Path) -> None:
    source, file = write_checkpoint(tmp_path / "llama", "llama", vocab_size=260), tmp_path / "llama.gguf"
    write_tokenizer(source, chat_template=CHATML)
    model = read_json(source / "tokenizer.json")["model"]
    merged = {**model, "vocab": {**model["vocab"], "th": 259}, "merges": ["t h"]}
    change_json(source / "tokenizer.json", model=merged)
    assert data("export", source, file)["architecture"] == "llama"
    text = "Seven ships, 12 of them\n\nsailed; don't ask."
    found = kept.open_model(file)
    assert TokenizerReader(found.path).encode(text) == TokenizerReader(source).encode(text)
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.chat_template"].contents() == CHATML
    assert (
        kept.generate(file, "The keeper", max_new_tokens=6, dtype="fp32")[0].text
        == kept.generate(source, "The keeper", max_new_tokens=6, dtype="fp32")[0].text
    )


@pytest.mark.parametrize(("original", "head_dim", "rounding"), [(8192, 64, 1e-9), (70, 16, 1e-6)])
def test_llama3_s_rope_is_written_as_factors(tmp_path: Path, original: int, head_dim: int, rounding: float) -> None:
    """Also where the factors of a few pairs do not determine the rule: then they are read as they are, in float32."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = {**rope, "rope_theta": 500_000.0, "original_max_position_embeddings": original}
    source = write_checkpoint(tmp_path / "llama", "llama", rope_parameters=scaling, head_dim=head_dim)
    kept.export_gguf(source, tmp_path / "llama.gguf", type="f32")
    apart = (logits(tmp_path / "llama.gguf", torch.float64) - logits(source, torch.float64)).abs().max()
    assert apart < rounding


def test_what_cannot_be_said_is_refused_by_name(tmp_path: Path) -> None:
    orion = write_checkpoint(tmp_path / "orion", "orion")
    with pytest.raises(Refusal, match=r"^orion: is not written as GGUF .*; kept convert --to llama makes it one$"):
        kept.export_gguf(orion, tmp_path / "x.gguf")
    windowed = write_checkpoint(tmp_path / "mistral", "mistral", sliding_window=16)
    assert "the sliding window of 16 tokens" in complains("export", windowed, tmp_path / "x.gguf")
    llama = write_checkpoint(tmp_path / "llama", "llama")
    with pytest.raises(InputError, match="type: is 'q3'"):
        kept.export_gguf(llama, tmp_path / "x.gguf", type="q3")
    succeeds("export", llama, tmp_path / "x.gguf")
    with pytest.raises(OutputError, match="exists already"):
        kept.export_gguf(llama, tmp_path / "x.gguf")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["llama", "mistral", "orion", "x.gguf"]

"""Libraries that take any model of transformers take our own class: peft, lm-eval and, where it is installed, trl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from support.logits import some_tokens, worst

if TYPE_CHECKING:
    from pathlib import Path

    from native.conftest import BothClasses


def tokenizer() -> PreTrainedTokenizerFast:
    """One word for each of the 97 tokens."""
    words = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, **{f"w{n}": n for n in range(3, 97)}}
    made = Tokenizer(WordLevel(words, unk_token="[PAD]"))  # noqa: S106 - a word
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]")  # noqa: S106 - the same


def test_lora_of_peft(llama: BothClasses) -> None:
    """An adapter that learns, and that is the same once it is merged."""
    torch.manual_seed(0)
    tokens = some_tokens(2, 8)
    model: Any = get_peft_model(llama.own(), LoraConfig(r=2, target_modules=["q", "v", "down"], task_type="CAUSAL_LM"))
    before = model(input_ids=tokens, labels=tokens).loss
    optimizer = torch.optim.SGD((weight for weight in model.parameters() if weight.requires_grad), lr=0.1)
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model(input_ids=tokens, labels=tokens)
    assert float(after.loss.detach()) < float(before.detach()) - 1e-3
    merged = model.merge_and_unload()
    assert worst(merged(tokens).logits.detach(), after.logits.detach()) < 1e-9


def test_lm_eval(llama: BothClasses) -> None:
    """The hf backend gives what it gives for the stock class, in batches of texts of unequal length."""
    pairs = [("w5 w6 w7", " w8"), ("w9", " w10 w11 w12"), ("w13 w14", " w15")]
    found = []
    for model in (llama.own(), llama.stock()):
        harness = HFLM(pretrained=model, tokenizer=tokenizer(), batch_size=2)
        requests = [("", harness.tok_encode(text), harness.tok_encode(end)) for text, end in pairs]
        found.append([value for value, _ in harness._loglikelihood_tokens(requests, disable_tqdm=True)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_step_of_trl(llama: BothClasses, tmp_path: Path) -> None:
    """Supervised fine-tuning with gradient checkpointing: the loss of the stock class, and weights that changed."""
    trl = pytest.importorskip("trl", reason="trl is not installed; pip install trl")
    from datasets import Dataset

    rows = Dataset.from_list([{"text": "w5 w6 w7 w8"}, {"text": "w9 w10"}])
    losses = []
    for name, model in (("own", llama.own(torch.float32)), ("stock", llama.stock(torch.float32))):
        before = model.get_input_embeddings().weight.detach().clone()
        settings = trl.SFTConfig(
            output_dir=str(tmp_path / name), max_steps=1, report_to=[], use_cpu=True, bf16=False, learning_rate=1e-3
        )
        trainer = trl.SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer())
        losses.append(trainer.train().training_loss)
        assert not torch.equal(model.get_input_embeddings().weight, before)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

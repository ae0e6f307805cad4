"""Chat: prompt and answer are those of transformers, text appears as it is generated, turns follow turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import kept
from kept.checkpoint.text_stream import TextStream
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.commands.chat import Chat
from kept.errors import InputError
from support.chats import CHATML, write_chat_tokenizer
from support.command_line import complains, data, run, succeeds
from support.models import write_checkpoint
from support.stored import write_json, write_readable

if TYPE_CHECKING:
    from pathlib import Path

QUESTION, SYSTEM = "How many ships sailed?", "be kind"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "chat"
    write_checkpoint(directory, "llama", vocab_size=512, max_position_embeddings=512)
    return write_chat_tokenizer(directory, chat_template=CHATML)


def theirs(directory: Path, messages: list[dict[str, str]], new: int) -> tuple[list[int], str]:
    """Return transformers' greedy answer as ids and as text."""
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    stock: Any = AutoModelForCausalLM.from_pretrained(directory)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        found = stock.generate(**ids, max_new_tokens=new, do_sample=False, pad_token_id=0)[0]
    answer = found[ids["input_ids"].shape[1] :].tolist()
    return answer, tokenizer.decode(answer, skip_special_tokens=True)


def test_an_answer_is_that_of_transformers(model: Path) -> None:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    (found,) = kept.generate(model, QUESTION, chat=True, system=SYSTEM, max_new_tokens=12)
    assert found.text == theirs(model, messages, 12)[1]
    assert found.text != kept.generate(model, QUESTION, max_new_tokens=12)[0].text


def test_an_answer_ends_where_the_generation_config_says(model: Path) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    whole, _ = theirs(model, messages, 12)
    end = next(at for at in whole if whole.index(at) > 1)
    write_json(model / "generation_config.json", {"eos_token_id": [end, 511]})
    (found,) = kept.generate(model, QUESTION, chat=True, max_new_tokens=12)
    ids, text = theirs(model, messages, 12)
    (model / "generation_config.json").unlink()
    assert ids == whole[: whole.index(end) + 1]
    assert text.startswith(found.text)
    assert len(found.text) < len(kept.generate(model, QUESTION, chat=True, max_new_tokens=12)[0].text)


def test_a_conversation_goes_on(model: Path) -> None:
    pieces: list[str] = []
    talk = Chat.open(model, max_new_tokens=6)
    first = talk.say(QUESTION, pieces.append)
    assert "".join(pieces) == first
    assert len(pieces) > 1
    second = talk.say("And one?")
    turns = [("user", QUESTION), ("assistant", first.strip()), ("user", "And one?")]
    assert second == theirs(model, [{"role": role, "content": text} for role, text in turns], 6)[1]


@pytest.mark.parametrize("text", ["seven ships", " once", "한국어 x", "a\n\n b"])
def test_pieces_of_text_add_up(model: Path, text: str) -> None:
    reader = TokenizerReader(model)
    ids, pieces = reader.encode(text, special=False), list[str]()
    stream = TextStream(reader, reader.encode("The keeper", special=False), pieces.append)
    for count in range(len(ids)):
        stream.extend(ids[: count + 1])
    stream.end(ids)
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_the_command_line_chats(model: Path) -> None:
    options = ("--chat", "--max-new-tokens", 6, "--device", "cpu")
    one = kept.generate(model, QUESTION, chat=True, max_new_tokens=6)[0].text
    assert succeeds("generate", model, *options, "--prompt", QUESTION).stdout == one + "\n"
    assert data("generate", model, *options, "--prompt", QUESTION) == [{"prompt": QUESTION, "text": one}]
    talk = Chat.open(model, max_new_tokens=6)
    both = f"{talk.say(QUESTION)}\n{talk.say('And one?')}\n"
    assert run("generate", model, *options, typed=f"{QUESTION}\n\nAnd one?\n").stdout == both


def test_what_cannot_chat_is_named(model: Path, tmp_path: Path) -> None:
    plain = write_readable(tmp_path / "plain", "llama")
    assert "has no chat template" in complains("generate", plain, "--chat", "--prompt", "x")
    assert "system: is a message of a conversation" in complains("generate", model, "--system", "x")
    with pytest.raises(InputError, match=r"the conversation has .* tokens, the model has 512 positions"):
        kept.generate(model, "x" * 600, chat=True)

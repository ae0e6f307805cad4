"""Conversations: their text, ids and answers are what transformers makes of them, and rows do not tear them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from kept.checkpoint.chat_template import Conversation, Template
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.distillation.data.conversations import ConversationRenderer
from kept.distillation.data.documents import TextSource
from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packed_rows import PackedRows, PackedRowStream
from kept.distillation.data.packing import BatchStream
from kept.distillation.data.row_layout import RowLayout, best_fit_decreasing
from kept.distillation.data.token_dataset import TokenDataset, tokenise
from kept.errors import CheckpointError, InputError
from support.chats import (
    CALL,
    CALLED,
    CALLING,
    CHATML,
    DATED,
    HEADERS,
    INST,
    MARKED,
    MARKED_AND_DATED,
    PARTS,
    PUBLIC,
    REWRITING,
    ROWS,
    STABLE,
    TALKS,
    THINKING,
    TOOL,
    talk,
    write_chat_tokenizer,
)
from support.heal_data import lengths, tokens_of, write_lines
from support.stored import change_json, write_sentencepiece

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return write_chat_tokenizer(tmp_path / "model")


def talks_of(folder: Path, text: str, date: str = "") -> ConversationRenderer:
    change_json(folder / "tokenizer_config.json", chat_template=text)
    template = Template.of(folder, date=date)
    assert template is not None
    return ConversationRenderer(template)


def read(folder: Path, text: str, *talks: Any, field: str = "messages") -> TokenDataset:
    """Conversations as they are tokenised, through a file and a cache."""
    file = write_lines(folder.parent / "talks.jsonl", *({field: one} for one in talks))
    source = TextSource((file,), field, conversations=talks_of(folder, text))
    return tokenise(source, TokenizerReader(folder), folder.parent / "cache")


def refusal(folder: Path, text: str, *lines: Any, field: str = "messages") -> str:
    file = write_lines(folder.parent / "talks.jsonl", *lines)
    with pytest.raises(InputError) as raised:
        tokenise(
            TextSource((file,), field, conversations=talks_of(folder, text)),
            TokenizerReader(folder),
            folder.parent / "cache",
        )
    said = str(raised.value)
    assert "\n" not in said
    return said.replace(f"{folder.parent}/", "")


def learned(tokens: TokenDataset, number: int) -> list[int]:
    """The ids of a conversation that are learned."""
    found = tokens.document(number, 0, 10**9)[np.asarray(tokens.loss_mask(number, 0, 10**9)) == 1]
    return [int(at) for at in found]


# ------------------------------------------------------------------------------------------------ beside transformers


@pytest.mark.parametrize("name", STABLE)
def test_ids_are_those_of_apply_chat_template(folder: Path, name: str) -> None:
    tokens = read(folder, STABLE[name], *TALKS)
    stock = PreTrainedTokenizerFast.from_pretrained(folder)
    for number, one in enumerate(TALKS):
        wanted = stock.apply_chat_template(one, tokenize=True, return_dict=False)
        assert tokens.document(number, 0, 10**9).tolist() == wanted


def test_answers_are_those_that_a_template_marks(folder: Path) -> None:
    """A token that begins before an answer and ends within it counts there and here."""
    tokens = read(folder, MARKED, *TALKS)
    stock = PreTrainedTokenizerFast.from_pretrained(folder)
    for number, one in enumerate(TALKS):
        found = stock.apply_chat_template(one, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        assert tokens.document(number, 0, 10**9).tolist() == found["input_ids"]
        assert np.asarray(tokens.loss_mask(number, 0, 10**9)).tolist() == found["assistant_masks"]


@pytest.mark.parametrize("name", STABLE)
def test_what_is_learned_is_what_follows_the_prompt(folder: Path, name: str) -> None:
    tokens = read(folder, STABLE[name], TALKS[0])
    stock = PreTrainedTokenizerFast.from_pretrained(folder)
    prompt = stock.apply_chat_template(TALKS[0][:1], tokenize=False, add_generation_prompt=True)
    whole = stock.apply_chat_template(TALKS[0], tokenize=False)
    assert stock.decode(learned(tokens, 0)) == whole.removeprefix(prompt)
    assert {"chatml": "five<|im_end|>\n", "inst": " five </s>", "headers": "five</s>"}[name] in whole


def test_every_answer_of_a_conversation_is_trained(folder: Path) -> None:
    tokens = read(folder, CHATML, TALKS[3])
    assert TokenizerReader(folder).decode(learned(tokens, 0)) == "upon\ntime\nwas\n"
    ends = learned(tokens, 0).count(4)
    assert ends == 3, "the token that ends a turn is learned"


def test_a_sentencepiece_tokenizer_too(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    folder = write_sentencepiece(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    tokens = read(folder, INST, *TALKS)
    reader = TokenizerReader(folder)
    assert [reader.decode([at]) for at in learned(tokens, 0)][-1] == "</s>" or learned(tokens, 0)[-1] == 2
    assert reader.decode(learned(tokens, 0)).strip().startswith("five")


def test_system_and_tool_are_not_learned(folder: Path) -> None:
    said = [
        {"role": "system", "content": "be kind"},
        *talk("once", "upon"),
        {"role": "tool", "content": "a result", "tool_call_id": "7"},
        {"role": "assistant", "content": "time"},
    ]
    assert TokenizerReader(folder).decode(learned(read(folder, CHATML, said), 0)) == "upon\ntime\n"


def test_the_other_form_of_messages(folder: Path) -> None:
    said = [{"from": "human", "value": "once"}, {"from": "gpt", "value": "upon"}]
    tokens = read(folder, CHATML, said, field="conversations")
    assert TokenizerReader(folder).decode(learned(tokens, 0)) == "upon\n"


def test_parquet_holds_conversations_too(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder.parent / "talks.parquet"
    pq.write_table(pa.table({"messages": TALKS}), file)
    talks = talks_of(folder, CHATML)
    found = tokenise(
        TextSource((file,), "messages", conversations=talks), TokenizerReader(folder), folder.parent / "cache"
    )
    wanted = read(folder, CHATML, *TALKS)
    assert np.array_equal(found.ids, wanted.ids)
    assert np.array_equal(np.asarray(found.assistant_mask), np.asarray(wanted.assistant_mask))


def test_another_template_is_another_cache(folder: Path) -> None:
    one, other = (read(folder, text, *TALKS) for text in (CHATML, HEADERS))
    assert not np.array_equal(one.ids, other.ids)
    assert len(list((folder.parent / "cache").iterdir())) >= 2


@pytest.mark.parametrize("name", PUBLIC)
def test_any_conversation_is_rendered_as_transformers_does(folder: Path, name: str) -> None:
    """Text and errors are equal; both use today's date."""
    talks = talks_of(folder, PUBLIC[name])
    stock, taken = PreTrainedTokenizerFast.from_pretrained(folder), 0
    for row in ROWS:
        variables = row.get("chat_template_kwargs", {})
        asked = {"tools": row.get("tools"), "documents": row.get("documents"), **variables}
        one = Conversation(row["messages"], row.get("tools"), row.get("documents"), variables)
        for prompt in (False, True):
            try:
                wanted = stock.apply_chat_template(
                    row["messages"], tokenize=False, add_generation_prompt=prompt, **asked
                )
            except (TemplateError, TypeError):
                with pytest.raises(CheckpointError, match="its chat template fails"):
                    talks.template.render(one, prompt=prompt)
                continue
            taken += 1
            assert talks.template.render(one, prompt=prompt) == wanted
    assert taken > 10


@pytest.mark.parametrize("text", [MARKED, MARKED_AND_DATED])
def test_marked_answers_of_any_conversation(folder: Path, text: str) -> None:
    """Masks equal those of transformers, also with `continue` and `break` in the template."""
    rows = [row for row in ROWS if row["messages"] is not PARTS]
    file = write_lines(folder.parent / "talks.jsonl", *rows)
    talks = talks_of(folder, text)
    tokens = tokenise(
        TextSource((file,), "messages", conversations=talks), TokenizerReader(folder), folder.parent / "cache"
    )
    stock, number = PreTrainedTokenizerFast.from_pretrained(folder), 0
    for row in rows:
        asked = {"tools": row.get("tools"), "documents": row.get("documents"), **row.get("chat_template_kwargs", {})}
        found = stock.apply_chat_template(
            row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **asked
        )
        if not any(found["assistant_masks"]):
            continue
        assert tokens.document(number, 0, 10**9).tolist() == found["input_ids"]
        assert np.asarray(tokens.loss_mask(number, 0, 10**9)).tolist() == found["assistant_masks"]
        number += 1
    assert (number, tokens.skipped) == (len(tokens.table), len(rows) - number)


def test_the_given_date_is_rendered(folder: Path) -> None:
    talks = talks_of(folder, DATED, date="2024-02-29")
    assert "Today is February 29, 2024." in talks.read({"messages": TALKS[0]}).text
    assert talks.template.dated
    assert not talks_of(folder, CHATML).template.dated


def test_another_date_is_another_cache_where_the_template_tells_it(folder: Path) -> None:
    for text, count in ((CHATML, 1), (DATED, 2)):
        keys = {json.dumps(talks_of(folder, text, date=f"2024-02-{day}").template.described()) for day in (28, 29)}
        assert len(keys) == count


# ----------------------------------------------------------------------------------------------------------- loss masks

AGAIN: list[dict[str, Any]] = [*talk("Hi", "BAD", "again", "good")]


@pytest.mark.parametrize("key", ["weight", "train", "loss"])
@pytest.mark.parametrize("text", [CHATML, MARKED])
@pytest.mark.parametrize(
    ("first", "second", "wanted"), [(0, 1, "good"), (1, 0, "BAD"), (True, False, "BAD"), (0.0, 1.0, "good")]
)
def test_an_answer_may_be_excluded_from_training(
    folder: Path, key: str, text: str, first: object, second: object, wanted: str
) -> None:
    said = [AGAIN[0], {**AGAIN[1], key: first}, {**AGAIN[2], key: 0}, {**AGAIN[3], key: second}]
    tokens, whole = read(folder, text, said), read(folder, text, AGAIN)
    assert TokenizerReader(folder).decode(learned(tokens, 0)).strip() == wanted
    assert tokens.ids.tolist() == whole.ids.tolist(), "and the text is the same"


def test_what_is_not_learned_may_be_rewritten(folder: Path) -> None:
    said = [AGAIN[0], {**AGAIN[1], "weight": 0}, *AGAIN[2:]]
    assert TokenizerReader(folder).decode(learned(read(folder, REWRITING, said), 0)) == "good"


def test_conversations_without_trained_tokens_are_skipped(folder: Path) -> None:
    silent = [{**message, "train": False} for message in AGAIN]
    tokens = read(folder, CHATML, silent, AGAIN)
    assert (len(tokens.table), tokens.skipped) == (1, 1)


def test_tool_calls_of_the_other_form(folder: Path) -> None:
    said = [
        {"from": "human", "value": "How many?"},
        {"from": "function_call", "value": json.dumps(CALL["function"]), "weight": 0},
        {"from": "observation", "value": "7"},
        {"from": "gpt", "value": "Seven."},
    ]
    other = [CALLED[0], {**CALLED[1], "train": False}, *CALLED[2:]]  # type: ignore[dict-item]
    both = [talks_of(folder, THINKING).read({"messages": one}) for one in (said, other)]
    assert both[0] == both[1]
    assert len(both[0].answers) == 1


def test_tools_of_a_row_are_rendered_and_may_be_json(folder: Path) -> None:
    talks = talks_of(folder, CALLING)
    texts = {talks.read({"messages": CALLED, "tools": tools, "id": 7}).text for tools in ([TOOL], json.dumps([TOOL]))}
    assert len(texts) == 1
    assert "Zähle <Schiffe> & 'boats'" in texts.pop()


def test_parquet_has_tools_beside_messages(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder.parent / "talks.parquet"
    other: dict[str, Any] = {"messages": CALLED, "tools": json.dumps([TOOL]), "id": 7}
    pq.write_table(pa.Table.from_pylist([other, {"messages": TALKS[0], "tools": None, "id": 8}]), file)
    (one, two) = TextSource((file,), "messages", conversations=talks_of(folder, CALLING)).documents()
    assert one.text == talks_of(folder, CALLING).read(other).text
    assert two.text == talks_of(folder, CALLING).read({"messages": TALKS[0]}).text


def test_a_key_that_only_the_template_reads_is_understood(folder: Path) -> None:
    said = [{"role": "user", "content": "x", "mood": "glad"}, *talk("x", "y")[1:]]
    found = talks_of(folder, "{% for m in messages %}{{ m.mood }}|{{ m.content }}\n{% endfor %}").read(
        {"messages": said}
    )
    assert found.text.startswith("glad|x")


# ------------------------------------------------------------------------------------------------------ what is wrong


def said_with(**keys: object) -> dict[str, Any]:
    """Return a conversation whose answer has additional keys."""
    return {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", **keys}]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            {"text": "x"},
            "line 2 has no field 'messages', only text; --text-field names the one with the list of messages",
        ),
        ({"messages": "x"}, "line 2 has no list of messages in 'messages' but \"x\"; correct the line or name another"),
        ([1], 'line 2 is not a JSON object; each line must be one, as {"messages": [...]}'),
        ({"messages": []}, "line 2: the conversation is empty; remove it"),
        ({"messages": ["x"]}, 'line 2: message 1 is "x"; write it as {"role": ..., "content"'),
        ({"messages": [{"content": "x"}]}, "line 2: message 1 is {"),
        ({"messages": [{"role": "usr", "content": "x"}]}, 'the role "usr"; did you mean user?; it must be one of'),
        ({"messages": [{"role": 3, "content": "x"}]}, "line 2: a message has the role 3; it must be one of system"),
        ({"messages": [{"role": "user", "content": None}]}, "line 2: the content of message 1 is null; it"),
        ({"messages": [{"role": "user"}]}, "line 2: the content of message 1 is null; it"),
        ({"messages": [{"from": "human", "value": 3}]}, "line 2: the value of message 1 is 3; it must be text"),
        ({"messages": talk("x", "y")[1:]}, "line 2: the conversation begins with an assistant message; begin it"),
        ({"messages": talk("\ufdd0", "y")}, "line 2: the conversation contains U+FDD0 or U+FDD1, which"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "message 1 has a part that is not text: {",
        ),
        ({"messages": [{"role": "user", "content": []}]}, "the content of message 1 is []; it must be text"),
        (
            said_with(weigth=0),
            "message 2 has the key 'weigth', which neither kept nor the chat template reads; did you mean weight?",
        ),
        (said_with(mood="x"), "message 2 has the key 'mood', which neither kept nor the chat template reads; remove"),
        (said_with(weight=0.5), "message 2 has weight 0.5; it must be 0 or 1, or false or true"),
        (said_with(train="no"), 'message 2 has train "no"; it must be 0 or 1, or false or true'),
        (said_with(train=True, weight=0), "message 2 has weight and train, which disagree; keep one"),
        ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "message 1, of the role user, has weight 1"),
        ({"messages": [{"from": "function_call", "value": "x"}]}, 'the value of message 1 is "x"; write a tool call'),
        ({**said_with(), "weight": 0}, "'weight' stands next to the messages; move it into the messages"),
        ({**said_with(), "system": "be kind"}, "'system' stands next to the messages; move it into the messages"),
        ({**said_with(), "bos_token": "x"}, "'bos_token', which the chat template reads, stands next to the messages"),
        ({**said_with(), "tools": {"a": 1}}, "tools is {"),
        ({**said_with(), "documents": ["x"]}, "documents is ["),
        ({**said_with(), "chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs is {"),
        ({"messages": [{"role": "system", "content": "x"}]}, "its chat template fails (no system here)"),
    ],
)
def test_an_invalid_conversation_is_refused(folder: Path, line: Any, words: str) -> None:
    said = refusal(folder, INST, {"messages": TALKS[0]}, line)
    assert said.startswith("talks.jsonl: line 2")
    assert words in said


def test_a_template_that_rewrites_turns_is_refused(folder: Path) -> None:
    said = refusal(folder, REWRITING, {"messages": TALKS[0]}, {"messages": TALKS[1]})
    assert said.startswith("talks.jsonl: line 2: the chat template of model changes earlier turns, so the span of")
    assert "--chat-template" in said
    assert len(read(folder, REWRITING, TALKS[0]).table) == 1, "with one answer there is nothing to rewrite"


def test_conversations_without_an_answer_are_left_out_and_counted(folder: Path) -> None:
    tokens = read(folder, CHATML, TALKS[0], talk("x"), TALKS[1])
    assert (len(tokens.table), tokens.skipped) == (2, 1)
    assert refusal(folder, CHATML, {"messages": talk("x")}) == (
        "talks.jsonl: holds no answer of an assistant; name files that do"
    )


def test_conversations_and_texts_have_names_of_their_own(folder: Path) -> None:
    write_lines(folder.parent / "both.jsonl", {"messages": TALKS[0]})
    (folder.parent / "both.txt").write_text("once upon a time")
    paths = tuple(folder.parent / f"both.{kind}" for kind in ("jsonl", "txt"))
    talks = talks_of(folder, CHATML)
    with pytest.raises(InputError, match=r"holds conversations and texts; give each a name: chat=a\.jsonl, old=b\.txt"):
        TextSource(paths, "messages", conversations=talks).files()
    alone = tokenise(
        TextSource(paths[1:], "messages", conversations=talks), TokenizerReader(folder), folder.parent / "cache"
    )
    assert alone.assistant_mask is None


def test_a_mask_that_was_cut_short(folder: Path) -> None:
    read(folder, CHATML, *TALKS)
    (file,) = (folder.parent / "cache").glob("*/assistant_mask.bin")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="was changed after it was written"):
        read(folder, CHATML, *TALKS)


def test_a_template_names_what_it_is_given(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", eos_token={"content": "<|end|>"})
    assert talks_of(folder, "{{ eos_token }}").template.render(Conversation([])) == "<|end|>"
    assert talks_of(folder, "{{ {'a': 'é<'} | tojson }}").template.render(Conversation([])) == '{"a": "é<"}'
    with pytest.raises(CheckpointError, match="its chat template fails"):
        talks_of(folder, "{% generation %}").template.render(Conversation([]))


# --------------------------------------------------------------------------------------------------------------- rows


def conversations(sizes: list[int], first: int = 0) -> TokenDataset:
    """Conversations of these lengths, of which every third id and the last is learned."""
    made = tokens_of(sizes, first=first)
    mask = np.concatenate([[i % 3 == 2 or i == size - 1 for i in range(size)] for size in sizes]).astype(np.uint8)
    return TokenDataset(made.ids, made.table, made.files, made.largest, mask)


def test_rows_hold_whole_conversations() -> None:
    assert best_fit_decreasing([3, 8, 5, 2, 9], 8) == [[0, 2], [1], [3], [4]]
    cut = RowLayout(conversations([3, 8, 5, 2, 9]), np.arange(5), 8)
    assert [[(s.document, s.begin, s.stop) for s in cut.row(at)] for at in range(len(cut))] == [
        [(0, 0, 3), (2, 0, 5)],
        [(1, 0, 8)],
        [(3, 0, 2)],
        [(4, 0, 8)],
    ]


@given(lengths, st.integers(2, 40))
def test_no_message_is_torn_lost_or_repeated(sizes: list[int], length: int) -> None:
    cut = RowLayout(conversations(sizes), np.arange(len(sizes)), length)
    spans = [span for at in range(len(cut)) for span in cut.row(at)]
    assert sorted(span.document for span in spans) == list(range(len(sizes)))
    for span in spans:
        assert (span.begin, span.stop) == (0, min(sizes[span.document], length))
    assert all(sum(s.stop - s.begin for s in cut.row(at)) <= length for at in range(len(cut)))
    if all(size <= length for size in sizes):  # what best fit cannot do worse than: no two rows fit into one
        rows = sorted(sum(s.stop - s.begin for s in cut.row(at)) for at in range(len(cut)))
        assert len(rows) < 2 or rows[0] + rows[1] > length


def test_the_mask_is_one_where_the_next_id_is_the_assistant_s() -> None:
    stream = BatchStream(Mixture({"a": conversations([7, 5, 30])}, hold_out=0), 2, 12)
    batch = stream.batch_at(0)
    for row in range(2):
        documents, masks = batch.documents_BT[row].tolist(), batch.mask_BT[row].tolist()
        tokens, targets = batch.tokens_BT[row].tolist(), batch.targets_BT[row].tolist()
        for at, document in enumerate(documents):
            if document == -1:
                assert masks[at] == 0
                continue
            name = int(batch.names[document].split(":")[1])
            place = tokens[at] % 1000
            last = [7, 5, 30][name] - 1
            wanted = place < last and ((place + 1) % 3 == 2 or place + 1 == last)
            assert masks[at] == wanted
            assert not wanted or targets[at] == tokens[at] + 1
    learned = stream.mixture.tokens[0].assistant_mask
    assert learned is not None
    assert stream.counts["a"] == {
        "documents": 3,
        "tokens": 42,
        "held_out_documents": 0,
        "held_out_tokens": 0,
        "answer_tokens": int(learned.sum()),
        "without_answer": 0,
        "cut": 1,
    }


@given(lengths, st.integers(0, 60), st.integers(1, 3))
def test_a_batch_is_a_function_of_its_step(sizes: list[int], step: int, batch: int) -> None:
    sources = {"talks": conversations(sizes), "old": tokens_of(sizes, first=50)}

    def made() -> BatchStream:
        return BatchStream(Mixture(sources, {"talks": 0.6, "old": 0.4}, hold_out=1), batch, 16, seed=3)

    walked = made()
    for before in range(step % 5):
        walked.batch_at(before)
    for one, other in zip(vars(walked.batch_at(step)).values(), vars(made().batch_at(step)).values(), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_an_epoch_has_every_conversation_once() -> None:
    stream = BatchStream(Mixture({"a": conversations([5] * 20)}, hold_out=4), 1, 10)
    held = {name for batch in stream.held_out() for name in batch.names}
    epochs = [[name for step in range(e * 8, e * 8 + 8) for name in stream.batch_at(step).names] for e in range(2)]
    assert len(held) == 4
    for names in epochs:
        assert len(names) == len(set(names)) == 16
        assert not held & set(names)
    assert epochs[0] != epochs[1]


def test_rows_of_a_teacher_s_cache_hold_whole_conversations_too() -> None:
    rows = PackedRows(Mixture({"a": conversations([5, 7, 3, 9, 4] * 4)}, hold_out=2), 10)
    stream = PackedRowStream(rows, 2)
    for batch in (*(stream.batch_at(step) for step in range(5)), *stream.held_out()):
        for row in range(len(batch.tokens_BT)):
            inside = batch.documents_BT[row]
            for number in set(inside.tolist()) - {-1}:
                places = batch.tokens_BT[row][inside == number] % 1000
                assert places.tolist() == list(range([5, 7, 3, 9, 4][int(batch.names[number].split(":")[1]) % 5]))

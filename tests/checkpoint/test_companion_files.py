"""Companion files: tokenizer, template, licences, generation config. Remote code is never copied or run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import kept
from kept.checkpoint.chat_template import special_texts
from kept.checkpoint.companion_files import companions, tokenizer_note
from kept.checkpoint.licences import licences, no_licences, stated_licence
from kept.checkpoint.reader import open_checkpoint
from kept.checkpoint.templates import chat_templates
from kept.checkpoint.tokenizer_config import tokenizer_config
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.errors import CheckpointError
from kept.loaded import open_model
from kept.output.model_card import RESTRICTED
from support.logits import some_tokens, worst
from support.models import write_checkpoint
from support.orion_formulas import reference_orion
from support.stored import (
    BYTES_VOCABULARY,
    booby_trap,
    change_json,
    read_json,
    write_json,
    write_readable,
    write_sentencepiece,
    write_tokenizer,
)

HUMAN = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ 'Human: ' + message['content'] + '\n\nAssistant: ' + eos_token }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Orion Chat's template."""

SAID = [{"role": "user", "content": "How many ships?"}, {"role": "assistant", "content": "Seven."}]

REMOTE = {
    "AutoConfig": "configuration_orion.OrionConfig",
    "AutoModelForCausalLM": "modeling_orion.OrionForCausalLM",
}

CODE = ("configuration_orion.py", "modeling_orion.py", "tokenization_orion.py", "generation_utils.py")


def special(content: str) -> dict[str, object]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


ORION_TOKENIZER = {
    "add_bos_token": False,
    "add_eos_token": False,
    "auto_map": {"AutoTokenizer": ["tokenization_orion.OrionTokenizer", None]},
    "bos_token": special("<s>"),
    "eos_token": special("</s>"),
    "pad_token": special("<unk>"),
    "unk_token": special("<unk>"),
    "sp_model_kwargs": {},
    "tokenizer_class": "OrionTokenizer",
}

SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Base": ({}, {}),
    "Chat": ({}, {"chat_template": HUMAN, "model_max_length": 4096}),
    "LongChat": ({"max_position_embeddings": 200_000, "rope_theta": 5e7}, {"chat_template": HUMAN}),
}
"""The three Orion-14B checkpoints: what their config and their tokenizer config say beside what all say."""


def write_orion(directory: Path, marker: Path, shape: str) -> Path:
    """A tiny Orion as it lies on the hub: a SentencePiece model, remote code, a licence, a card."""
    config, tokenizer = SHAPES[shape]
    write_checkpoint(directory, "orion", vocab_size=BYTES_VOCABULARY, **config)
    change_json(directory / "config.json", auto_map=REMOTE)
    write_sentencepiece(directory)
    write_json(directory / "tokenizer_config.json", {**ORION_TOKENIZER, **tokenizer})
    write_json(directory / "generation_config.json", {"repetition_penalty": 1.05, "top_k": 5, "eos_token_id": 2})
    for name in CODE:
        booby_trap(directory / name, marker)
    (directory / "ModelsCommunityLicenseAgreement").write_text("Terms.\n", encoding="utf-8")
    front = "---\nlicense: other\nlicense_name: orion-14b\n---\n# Orion\n"
    (directory / "README.md").write_text(front, encoding="utf-8")
    return directory


class Hub:
    """One Orion of each shape, and its conversion."""

    def __init__(self, directory: Path, shape: str) -> None:
        self.shape, self.marker = shape, directory / "marker"
        self.source = write_orion(directory / f"orion-{shape}", self.marker, shape)
        self.out = kept.convert(self.source, directory / "out", verify_tokens=64).path


@pytest.fixture(scope="module", params=[*SHAPES])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return Hub(tmp_path_factory.mktemp("hub"), request.param)


# ----------------------------------------------------------------------------------- Orion Base, Chat and LongChat


def test_the_stock_class_computes_what_the_source_does(hub: Hub) -> None:
    model = AutoModelForCausalLM.from_pretrained(hub.out, trust_remote_code=False, dtype=torch.float32)
    assert type(model).__name__ == LlamaForCausalLM.__name__
    tokens = some_tokens(vocabulary=BYTES_VOCABULARY)
    with torch.inference_mode():
        found = model(tokens).logits
    assert worst(found, reference_orion(hub.source, tokens)) < 1e-4


def test_the_stock_tokenizer_reads_as_the_source_s_did(hub: Hub) -> None:
    import sentencepiece

    tokenizer = AutoTokenizer.from_pretrained(hub.out, trust_remote_code=False)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(hub.source / "tokenizer.model"))
    for text in ("The keeper counted seven ships.", "한국어와 中文 🙂", "  two  spaces\n\tand a tab"):
        ids = tokenizer(text)["input_ids"]
        assert ids == theirs.encode(text)
        assert tokenizer.decode(ids) == theirs.decode(ids)


def test_special_tokens_keep_their_names_and_ids(hub: Hub) -> None:
    tokenizer = AutoTokenizer.from_pretrained(hub.out, trust_remote_code=False)
    names = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token)
    assert names == ("<s>", "</s>", "<unk>", "<unk>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)


def test_the_chat_template_works(hub: Hub) -> None:
    tokenizer = AutoTokenizer.from_pretrained(hub.out, trust_remote_code=False)
    if hub.shape == "Base":
        assert tokenizer.chat_template is None
        return
    said = tokenizer.apply_chat_template(SAID, tokenize=False)
    assert said == "<s>Human: How many ships?\n\nAssistant: </s>Seven.</s>"
    given: Any = tokenizer.apply_chat_template(SAID, tokenize=True, return_dict=True)
    ids = given["input_ids"]
    assert (ids[0], ids[-1], ids.count(2)) == (1, 2, 2)


def test_positions_are_stated_in_the_old_form_and_the_new(hub: Hub) -> None:
    config = read_json(hub.out / "config.json")
    source = read_json(hub.source / "config.json")
    wanted = (200_000, 5e7) if hub.shape == "LongChat" else (source["max_position_embeddings"], source["rope_theta"])
    assert (config["max_position_embeddings"], config["rope_theta"]) == wanted
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": wanted[1]}
    assert config["rope_scaling"] is None
    assert config["torch_dtype"] == config["dtype"] == "float32"


def test_remote_code_is_not_copied_not_named_and_not_run(hub: Hub) -> None:
    AutoModelForCausalLM.from_pretrained(hub.out, trust_remote_code=False)
    AutoTokenizer.from_pretrained(hub.out, trust_remote_code=False)
    assert not hub.marker.exists()
    assert not [*hub.out.glob("*.py")]
    for file in hub.out.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert "auto_map" not in text, file.name
        assert "OrionTokenizer" not in text, file.name
    assert read_json(hub.out / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_generation_config_and_the_licence_come_along(hub: Hub) -> None:
    generation = read_json(hub.out / "generation_config.json")
    assert generation == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "repetition_penalty": 1.05,
        "top_k": 5,
    }
    assert (hub.out / "ModelsCommunityLicenseAgreement").read_text(encoding="utf-8") == "Terms.\n"
    card = (hub.out / "README.md").read_text(encoding="utf-8")
    assert "other, orion-14b" in card
    assert "ModelsCommunityLicenseAgreement" in card
    assert RESTRICTED["orion"] in card


def test_the_source_s_own_card_is_not_the_output_s(hub: Hub) -> None:
    assert "# Orion\n" not in (hub.out / "README.md").read_text(encoding="utf-8")


def test_the_trap_works(tmp_path: Path) -> None:
    code = booby_trap(tmp_path / "x.py", tmp_path / "marker").read_text(encoding="utf-8")
    exec(code)  # noqa: S102 - the test's own
    assert (tmp_path / "marker").exists()


# ------------------------------------------------------------------------------------------------------ what is copied


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_readable(tmp_path / "llama", "llama")


def taken(source: Path) -> dict[str, Any]:
    return dict(companions(source, open_model(source).program.spec))


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"])
def test_tokenizer_files_are_copied_as_they_are(source: Path, tmp_path: Path, name: str) -> None:
    if name != "tokenizer.json":
        (source / name).write_bytes(b"{}\n")
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    assert (out / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "PreTrainedTokenizerFast"),
        ({"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}, "PreTrainedTokenizerFast"),
        ({"tokenizer_class": "OrionTokenizer", "auto_map": {"AutoTokenizer": ["t.O"]}}, "PreTrainedTokenizerFast"),
        ({"tokenizer_class": "LlamaTokenizerFast", "name_or_path": "/home/me/model"}, "PreTrainedTokenizerFast"),
        ({"tokenizer_class": "PixtralTokenizer", "processor_class": "PixtralProcessor"}, "PreTrainedTokenizerFast"),
    ],
)
def test_the_tokenizer_s_class_is_one_that_every_transformers_has(
    source: Path, given: dict[str, object], wanted: str
) -> None:
    write_json(source / "tokenizer_config.json", {"model_max_length": 99, **given})
    config = json.loads(taken(source)["tokenizer_config.json"])
    found = {key: value for key, value in config.items() if not key.endswith("_token")}
    assert found == {"model_max_length": 99, "clean_up_tokenization_spaces": False, "tokenizer_class": wanted}


def test_a_tokenizer_without_its_file_keeps_its_class(source: Path) -> None:
    """The generic fast class cannot load vocab.json and merges.txt without tokenizer.json."""
    (source / "tokenizer.json").unlink()
    write_json(source / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    assert json.loads(taken(source)["tokenizer_config.json"]) == {"tokenizer_class": "GPT2Tokenizer"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"extra_special_tokens": ["<a>", "<b>"]}, {"additional_special_tokens": ["<a>", "<b>"]}),
        (
            {"extra_special_tokens": ["<a>", "<b>"], "additional_special_tokens": ["<b>", "<c>"]},
            {"additional_special_tokens": ["<b>", "<c>", "<a>"]},
        ),
        (
            {"extra_special_tokens": {"image_token": "<a>"}},
            {"additional_special_tokens": ["<a>"], "extra_special_tokens": {"image_token": "<a>"}},
        ),
        (
            {"model_specific_special_tokens": {"image_token": "<a>"}, "extra_special_tokens": ["<b>"]},
            {"additional_special_tokens": ["<b>", "<a>"], "extra_special_tokens": {"image_token": "<a>"}},
        ),
        (
            {"extra_special_tokens": [{"content": "<a>", "lstrip": True}]},
            {"additional_special_tokens": [{"content": "<a>", "lstrip": True, "__type": "AddedToken"}]},
        ),
        ({"extra_special_tokens": []}, {"additional_special_tokens": []}),
    ],
)
def test_special_tokens_are_in_the_form_that_every_transformers_reads(
    source: Path, given: dict[str, object], wanted: dict[str, object]
) -> None:
    tokens = ["extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"]
    change_json(source / "tokenizer_config.json", **given)
    write_json(source / "special_tokens_map.json", given)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        found = taken(source)[name]
        config = json.loads(found if isinstance(found, bytes) else found.read_bytes())
        assert {key: config[key] for key in tokens if key in config} == wanted


ONE = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>")
"""Special tokens of GPT-2's class, all with the text </s>."""


@pytest.mark.parametrize(
    ("model_type", "given", "wanted"),
    [
        ("gpt2", {"model_max_length": 1024}, ONE),
        (
            "llama",
            {"tokenizer_class": "GPT2TokenizerFast"},
            ONE,
        ),
        ("gpt2", {"bos_token": "<s>", "unk_token": None}, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": None}),
        ("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast"}, {}),
    ],
)
def test_special_tokens_that_only_a_class_has_are_named(
    source: Path, model_type: str, given: dict[str, object], wanted: dict[str, object]
) -> None:
    """GPT-2's config names no special tokens; those of its class have the text <|endoftext|>."""
    file = source / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace("</s>", "<|endoftext|>"), encoding="utf-8")
    write_json(source / "tokenizer_config.json", given)
    change_json(source / "config.json", model_type=model_type)
    called = {key: "<|endoftext|>" if value == "</s>" else value for key, value in wanted.items()}
    stock = AutoTokenizer.from_pretrained(source)
    assert stock.special_tokens_map == {key: value for key, value in called.items() if value is not None}
    config = tokenizer_config(source)
    assert {key: config[key] for key in config if key.endswith("_token")} == called
    assert special_texts(source) == stock.special_tokens_map


def test_processors_stay_behind_and_are_named(source: Path, tmp_path: Path) -> None:
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        write_json(source / name, {"processor_class": "X"})
    (note,) = kept.convert(source, tmp_path / "out", verify_tokens=0).notes
    assert "preprocessor_config.json, video_preprocessor_config.json" in note
    assert not [*(tmp_path / "out").glob("*processor*")]


# ----------------------------------------------------------------------------------------------------- chat templates

TEMPLATES = {"default": HUMAN, "tool_use": "TOOLS {{ tools | tojson }} {{ messages[0].content }}"}


def write_templates(directory: Path, where: str, found: dict[str, str]) -> None:
    """Write templates as transformers before 4.51 (config) or since (files), or as processors (json) store them."""
    if where == "config":
        change_json(
            directory / "tokenizer_config.json", chat_template=[{"name": n, "template": t} for n, t in found.items()]
        )
    if where == "json":
        write_json(directory / "chat_template.json", {"chat_template": found["default"]})
    if where == "files":
        (directory / "additional_chat_templates").mkdir()
        for name, text in found.items():
            file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
            (directory / file).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("where", ["config", "files"])
def test_named_templates_come_along(source: Path, tmp_path: Path, where: str) -> None:
    write_templates(source, where, TEMPLATES)
    out = kept.convert(source, tmp_path / "out", verify_tokens=0).path
    record = read_json(out / "kept.json")
    assert {"chat_template.jinja", "additional_chat_templates/tool_use.jinja"} <= record["files"].keys()
    stock = AutoTokenizer.from_pretrained(out)
    assert stock.chat_template == AutoTokenizer.from_pretrained(source).chat_template == TEMPLATES
    asked = {"tokenize": False, "tools": [{"name": "f"}]}
    assert stock.apply_chat_template(SAID, **asked) == 'TOOLS [{"name": "f"}] How many ships?'  # type: ignore[arg-type]
    listed = [{"name": name, "template": text} for name, text in TEMPLATES.items()]
    assert read_json(out / "tokenizer_config.json")["chat_template"] == listed, "where transformers 4.45 looks"


def test_files_with_templates_count_before_the_config(source: Path) -> None:
    change_json(source / "tokenizer_config.json", chat_template="in the config")
    write_templates(source, "files", {"tool_use": "of tools"})
    assert chat_templates(source) == AutoTokenizer.from_pretrained(source).chat_template == {"tool_use": "of tools"}
    write_templates(source, "json", {"default": "of a processor"})
    assert chat_templates(source) == {"tool_use": "of tools"}


def test_a_processor_s_template_counts_where_there_is_no_other(source: Path) -> None:
    write_templates(source, "json", {"default": HUMAN})
    found = taken(source)
    assert found["chat_template.jinja"] == HUMAN.encode()
    assert "chat_template.json" not in found


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (3, "chat_template is neither a string nor a list of objects with name and template"),
        ([{"name": "default"}], "chat_template is neither a string nor a list"),
        (
            [{"name": "../../x", "template": "y"}],
            "has a template named '../../x', which cannot be a file name; rename it",
        ),
        ([{"name": "a\nb", "template": "y"}], "which cannot be a file name; rename it"),
    ],
)
def test_templates_of_another_form(source: Path, said: object, words: str) -> None:
    change_json(source / "tokenizer_config.json", chat_template=said)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        taken(source)


def test_a_template_file_and_one_in_the_config(source: Path, tmp_path: Path) -> None:
    in_config = kept.convert(write_tokenizer(source, chat_template=HUMAN), tmp_path / "config", verify_tokens=0).path
    write_tokenizer(source)
    (source / "chat_template.jinja").write_text(HUMAN, encoding="utf-8")
    in_file = kept.convert(source, tmp_path / "file", verify_tokens=0).path
    assert (in_file / "chat_template.jinja").read_text(encoding="utf-8") == HUMAN
    texts = {
        AutoTokenizer.from_pretrained(out, trust_remote_code=False).apply_chat_template(SAID, tokenize=False)
        for out in (in_config, in_file)
    }
    assert texts == {"<s>Human: How many ships?\n\nAssistant: </s>Seven.</s>"}


def test_a_fast_tokenizer_is_preferred_to_a_model_file(source: Path) -> None:
    (source / "tokenizer.model").write_bytes(b"not read")
    found = taken(source)
    assert found["tokenizer.json"] == source / "tokenizer.json"
    assert found["tokenizer.model"] == source / "tokenizer.model"


def test_a_damaged_tokenizer_model_is_found_before_weights_are_written(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion")
    (source / "tokenizer.model").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: is no SentencePiece model"):
        kept.convert(source, tmp_path / "out", verify_tokens=0)
    assert [*tmp_path.rglob("*.safetensors*")] == [source / "model.safetensors"]


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_a_damaged_config_is_named(source: Path, name: str) -> None:
    (source / name).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read as JSON"):
        taken(source)


def test_without_a_tokenizer_there_is_none(tmp_path: Path) -> None:
    found = taken(write_checkpoint(tmp_path / "orion", "orion"))
    assert set(found) == {"generation_config.json"}


def test_code_and_pickles_stay_behind(source: Path) -> None:
    names = {"modeling_llama.py", "license.py", "pytorch_model.bin", "training_args.bin", "notes.txt"}
    for name in names:
        (source / name).write_bytes(b"x")
    (source / "license").mkdir()
    assert not taken(source).keys() & {*names, "license"}


def test_a_same_family_conversion_does_not_name_remote_code(source: Path, tmp_path: Path) -> None:
    change_json(source / "config.json", auto_map={"AutoModelForCausalLM": "my.LlamaForCausalLM"}, initializer_range=0.5)
    config = read_json(kept.convert(source, tmp_path / "out", verify_tokens=0).path / "config.json")
    assert "auto_map" not in config
    assert config["initializer_range"] == 0.5, "what else the source says stays"


# ----------------------------------------------------------------------------------------------------------- licences


def test_licence_files_are_found_by_name(source: Path) -> None:
    names = [
        "COPYING",
        "LICENSE",
        "LICENSE-2.0",
        "NOTICE.txt",
        "Orion Agreement.pdf",
        "USE_POLICY.md",
        "licence.md",
    ]
    others = [
        *("LICENSE.py", "LICENSE.upstream", "NOTICE.so", "agreement.sh", "copying.exe", "license.pkl", "license.pyc"),
        *("license.bin", "license.safetensors", "notice.jinja", "notice.json"),
    ]
    for name in (*names, *others, "README.md"):
        (source / name).write_bytes(b"terms")
    assert [*licences(source)] == sorted(names)
    assert no_licences(source) == sorted(others)
    assert {*others} <= {*open_checkpoint(source).left_out}
    assert all(taken(source)[name] == source / name for name in names)


NAMED = {"license": "other", "license_name": "mine", "license_link": "LICENSE"}


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ("---\nlicense: apache-2.0\n---\ntext", {"license": "apache-2.0"}),
        ("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n", NAMED),
        ("---\nlanguage: [en]\n---\n", {}),
        ("no front matter\n---\nlicense: mit\n---\n", {}),
        ("---\n: [\n---\n", {}),
        ("---\n- a\n---\n", {}),
        ("---\nlicense: mit", {}),
        ("", {}),
    ],
)
def test_the_licence_that_a_card_states(tmp_path: Path, card: str, wanted: dict[str, str]) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert stated_licence(tmp_path) == wanted


def test_a_card_that_is_not_text_or_not_there_states_nothing(tmp_path: Path) -> None:
    assert stated_licence(tmp_path) == {}
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00---")
    assert stated_licence(tmp_path) == {}


# ----------------------------------------------------------------------------------- a tokenizer that is built anew


def test_the_card_names_a_class_that_gives_the_same_ids(tmp_path: Path) -> None:
    """transformers 5 builds Qwen2's tokenizer for every such model; the first assertion fails once it does not."""
    source, text = Path(kept.__file__).parent / "demo" / "orion-2m", "Hello world, 12 + f(x)"
    out = tmp_path / "out"
    done = kept.convert(source, out, to="qwen2", norm="opm", verify_tokens=0)
    wanted = TokenizerReader(source).encode(text)
    assert AutoTokenizer.from_pretrained(out)(text).input_ids != wanted
    assert PreTrainedTokenizerFast.from_pretrained(out)(text).input_ids == wanted
    assert "tokenizer = PreTrainedTokenizerFast.from_pretrained(" in (out / "README.md").read_text(encoding="utf-8")
    assert "load the output's with PreTrainedTokenizerFast" in str(done.notes)


def test_a_tokenizer_that_comes_along_needs_no_word(source: Path, tmp_path: Path) -> None:
    assert tokenizer_note(source, "orion", "llama") is None
    assert tokenizer_note(source, "qwen2", "qwen2") is None
    assert tokenizer_note(tmp_path, "orion", "qwen2") is None, "there is none"


# -------------------------------------------------------------------------------------------------------- generation


def generation_config(source: Path) -> Any:
    return json.loads(taken(source)["generation_config.json"])


def test_ids_come_from_the_config_where_no_generation_config_is(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion", eos_token_id=[2, 5])
    assert generation_config(source) == {"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0}


def test_what_the_generation_config_says_wins(source: Path) -> None:
    write_json(
        source / "generation_config.json",
        {"eos_token_id": [2, 7], "do_sample": True, "transformers_version": "4.0.0", "_from_model_config": True},
    )
    assert generation_config(source) == {"bos_token_id": 1, "eos_token_id": [2, 7], "do_sample": True}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"early_stopping": None, "do_sample": None, "num_beams": None, "top_k": None}, {"top_k": None}),
        ({"temperature": 0.6, "do_sample": False}, {"temperature": 0.6, "do_sample": False}),
        ({"num_return_sequences": 3}, {}),
        ({"num_return_sequences": 3, "do_sample": True}, {"num_return_sequences": 3, "do_sample": True}),
        ({"num_return_sequences": 3, "num_beams": 4}, {"num_return_sequences": 3, "num_beams": 4}),
        ({"compile_config": {"mode": "x"}, "cache_implementation": "hybrid", "max_cache_len": 3}, {}),
        ({"streamer": None, "assistant_model": "x", "custom_generate": "x/y", "auto_map": {"a": "b"}}, {}),
        ({"top_h": 0.4, "assistant_ensemble_weight": 0.5}, {"top_h": 0.4, "assistant_ensemble_weight": 0.5}),
    ],
)
def test_a_generation_config_that_loads(source: Path, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    write_json(source / "generation_config.json", given)
    found = generation_config(source)
    assert {key: found[key] for key in found if not key.endswith("_token_id")} == wanted
    GenerationConfig(**found)


def test_suppressed_tokens_of_another_form(source: Path) -> None:
    write_json(source / "generation_config.json", {"suppress_tokens": "x"})
    with pytest.raises(CheckpointError, match="suppress_tokens is not a list of ids; correct"):
        companions(source, open_model(source).program.spec, suppressed_tokens=(3,))

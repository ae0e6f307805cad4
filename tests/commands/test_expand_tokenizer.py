"""`kept expand --tokenizer`: what is written, what the record says, and that new rows learn alone."""

from __future__ import annotations

import json
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from transformers import AutoTokenizer, GenerationConfig

import kept
from kept.checkpoint.byte_stream import write_tensors
from kept.checkpoint.direct_io import Output
from kept.checkpoint.tokenizer_reader import TokenizerReader
from kept.cli.root import main
from kept.commands.check import check
from kept.commands.heal import run_heal
from kept.errors import CheckpointError, RecipeError
from kept.ir.tensors import Stored, join, zeros
from kept.tokenizer.bpe import BYTE_LEVEL
from support.heal_runs import finish, losses, settings, start
from support.logits import stock, stock_generation, stock_logits
from support.models import write_checkpoint
from support.stored import change_json, read_json, tensors_of
from support.tokenizers_of import ENGLISH, GERMAN, KOREAN, corpus, inside, of_a_model

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from kept.distillation.settings import HealSettings

HAD = 340
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def model(directory: Path, family: str = "llama", **overrides: Any) -> Path:
    """A tiny checkpoint whose tokenizer has merges."""
    return of_a_model(write_checkpoint(directory, family, **{"vocab_size": HAD, **overrides}), BYTE_LEVEL, size=HAD)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("sources") / "llama", num_hidden_layers=4)


@pytest.fixture(scope="module")
def tokenizer(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokenizers")
    new = kept.train_tokenizer([corpus(place, KOREAN)], place / "new", vocab_size=380, like=source).path
    return kept.merge_tokenizers(source, new, place / "merged").path


@pytest.fixture(scope="module")
def grown(source: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept.expand(source, tmp_path_factory.mktemp("grown") / "out", tokenizer=tokenizer, verify_tokens=64).path


@pytest.fixture(scope="module")
def has(tokenizer: Path) -> int:
    return len(inside(tokenizer).get_vocab())


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def ids(directory: Path, text: str, count: int = 48) -> torch.Tensor:
    return torch.tensor([TokenizerReader(directory).encode(text)[:count]])


# ---------------------------------------------------------------------------------------------------------- what it is


def test_the_stock_class_gives_old_tokens_the_same_bits(source: Path, grown: Path, has: int, tmp_path: Path) -> None:
    tokens = ids(source, ENGLISH)
    assert torch.equal(tokens, ids(grown, ENGLISH))
    for dtype in (torch.float32, torch.bfloat16):
        found, wanted = stock_logits(grown, tokens, dtype), stock_logits(source, tokens, dtype)
        assert found.shape[-1] == has > HAD
        assert torch.equal(found[..., :HAD], wanted)
    loud = shutil.copytree(grown, tmp_path / "loud")  # negative control: one old row
    tensors = tensors_of(grown)
    tensors[HEAD][5] *= 1.01
    save_file(tensors, loud / "model.safetensors", metadata={"format": "pt"})
    assert not torch.equal(stock_logits(loud, tokens, torch.bfloat16)[..., :HAD], wanted)


def test_a_text_with_new_tokens_is_shorter_and_means_something(source: Path, grown: Path) -> None:
    before, after = ids(source, KOREAN, 9999), ids(grown, KOREAN, 9999)
    assert after.shape[1] < 0.8 * before.shape[1]
    assert bool(stock_logits(grown, after[:, :64], torch.float32).isfinite().all())


def test_new_rows_are_means_by_the_old_tokenizer(source: Path, grown: Path, has: int) -> None:
    before, after = inside(source), inside(grown)
    old, new = tensors_of(source), tensors_of(grown)
    for name in (EMBEDDING, HEAD):
        assert torch.equal(new[name][:HAD], old[name])
        for at in range(HAD, has):
            parts = [token.id for token in before.model.tokenize(after.id_to_token(at))]
            assert torch.allclose(new[name][at], old[name][parts].mean(0), atol=1e-6)


def test_the_record_and_the_files(source: Path, tokenizer: Path, grown: Path, has: int) -> None:
    record = read_json(grown / "kept.json")
    assert record["new_tokens"] == [HAD, has]
    assert record["vocabularies"] == [{"new": [HAD, has], "before": HAD, "after": has, "embedding_init": "mean"}]
    assert (record["new_layers"], record["new_parameters"], record["promise"]) == ([], [], "exact")
    assert record["verification"]["kept"]
    asked = {"tokenizer": "merged", "embedding_init": "mean", "pad_to_multiple_of": 1}  # names, wherever they lie
    assert record["recipe"]["passes"] == [{"name": "expand-vocab", **asked}]
    assert record["passes"][0]["options"] == asked
    assert read_json(grown / "config.json")["vocab_size"] == has
    assert (grown / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()
    assert check(grown).damage == ()
    assert kept.verify(source, grown, tokens=64).failure is None
    stock_one = AutoTokenizer.from_pretrained(grown)
    assert stock_one(KOREAN).input_ids == TokenizerReader(grown).encode(KOREAN)
    assert (stock_one.bos_token_id, stock_one.eos_token_id, len(stock_one)) == (1, 2, has)
    assert f"Tokens {HAD} to {has - 1} are new" in (grown / "README.md").read_text(encoding="utf-8")


def test_verifying_needs_no_directory_but_the_two(source: Path, grown: Path, tokenizer: Path, tmp_path: Path) -> None:
    """The tokenizer that was asked for may be gone: the output has it. An old row that changed is seen."""
    out = kept.expand(source, tmp_path / "out", tokenizer=shutil.copytree(tokenizer, tmp_path / "gone")).path
    shutil.rmtree(tmp_path / "gone")
    assert kept.verify(source, out, tokens=64).failure is None
    tensors = tensors_of(out)
    tensors[EMBEDDING][:HAD] *= 1.01
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    assert "the mean logit error is" in str(kept.verify(source, out, tokens=64).failure)


def test_bytes_of_old_rows_are_copied_as_they_are(tmp_path: Path) -> None:
    """NaN too: its bits would be lost by arithmetic."""
    raw = bytes([1, 0xFF, 0x81, 0x7F, 0xFF, 0xFF, 0x55, 0x7F])  # NaNs of bfloat16
    (tmp_path / "old").write_bytes(raw)
    old = Stored((2, 2), "BF16", tmp_path / "old", 0)
    with Output(tmp_path / "new") as out:
        write_tensors([("rows", join([old, zeros((1, 2), "BF16")]))], out, lambda _: None)
        out.finish()
    assert (tmp_path / "new").read_bytes() == raw + bytes(4)


# ----------------------------------------------------------------------------------------------------------- variations


@pytest.mark.parametrize("family", ["gpt2", "phi", "gemma", "orion"])
def test_other_families(family: str, tmp_path: Path) -> None:
    """Tied, with a bias on the logits, multiplied embeddings, and without a stock class."""
    sized = model(tmp_path / family, family)
    new = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / "new", vocab_size=380, like=sized).path
    merged = kept.merge_tokenizers(sized, new, tmp_path / "merged").path
    done = kept.expand(sized, tmp_path / "out", tokenizer=merged, verify_tokens=64)
    assert done.verification is not None
    assert done.verification.failure is None
    assert done.verification.copied
    assert done.verification.same is not None
    assert done.verification.same.identical, "on the tokens that both have"
    assert check(done.path).damage == ()


def test_with_layers_too(source: Path, tokenizer: Path, has: int, tmp_path: Path) -> None:
    done = kept.expand(source, tmp_path / "out", groups=2, tokenizer=tokenizer, embedding_init="zero", verify_tokens=64)
    assert (done.record["new_layers"], done.record["new_tokens"]) == ([2, 5], [HAD, has])
    assert [one["name"] for one in done.record["passes"]] == ["expand-blocks", "expand-vocab"]
    assert not tensors_of(done.path)[EMBEDDING][HAD:].any()
    assert kept.verify(source, done.path, tokens=64).failure is None


def test_rows_of_a_file(source: Path, tokenizer: Path, has: int, tmp_path: Path) -> None:
    rows = {"embedding": torch.full((has - HAD, 64), 0.5), "head": torch.full((has - HAD, 64), 0.25)}
    save_file(rows, tmp_path / "rows.safetensors")
    out = kept.expand(
        source, tmp_path / "out", tokenizer=tokenizer, embedding_init=str(tmp_path / "rows.safetensors")
    ).path
    assert torch.equal(tensors_of(out)[EMBEDDING][HAD:], rows["embedding"])
    assert torch.equal(tensors_of(out)[HEAD][HAD:], rows["head"])
    (tmp_path / "rows.safetensors").unlink()
    assert kept.verify(source, out, tokens=64).failure is None


def test_a_multiple_of_rows(source: Path, tokenizer: Path, has: int, tmp_path: Path) -> None:
    """Rows without a token are named to stock generation, which then never gives one."""
    out = kept.expand(source, tmp_path / "out", tokenizer=tokenizer, pad_to_multiple_of=128, verify_tokens=64).path
    assert read_json(out / "config.json")["vocab_size"] == 512
    assert read_json(out / "kept.json")["new_tokens"] == [HAD, has]
    assert GenerationConfig.from_pretrained(out).suppress_tokens == [*range(has, 512)]
    assert check(out).damage == ()
    drawn = stock_generation(
        stock(out, torch.float32), ids(out, ENGLISH, 8), do_sample=True, max_new_tokens=60, temperature=9.0
    )
    assert int(drawn.max()) < has


def test_spare_rows_are_used(tmp_path: Path) -> None:
    """A model with more rows than tokens: new tokens have the ids behind the old, and the matrix its size."""
    padded = model(tmp_path / "padded", vocab_size=384)
    change_json(padded / "generation_config.json", suppress_tokens=[7])
    new = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / "new", vocab_size=380, like=padded).path
    merged = kept.merge_tokenizers(padded, new, tmp_path / "merged", max_added_tokens=30).path
    done = kept.expand(padded, tmp_path / "out", tokenizer=merged, verify_tokens=64)
    assert done.record["vocabularies"] == [{"new": [340, 370], "before": 384, "after": 384, "embedding_init": "mean"}]
    old, found = tensors_of(padded)[HEAD], tensors_of(done.path)[HEAD]
    assert torch.equal(found[:340], old[:340])
    assert torch.equal(found[370:], old[370:])
    assert not torch.equal(found[340:370], old[340:370])
    assert kept.verify(padded, done.path, tokens=64).failure is None
    assert read_json(done.path / "generation_config.json")["suppress_tokens"] == [7, *range(370, 384)]
    more = kept.merge_tokenizers(padded, new, tmp_path / "more").path
    wide = kept.expand(padded, tmp_path / "wide", tokenizer=more, verify_tokens=64)
    assert wide.record["verification"]["kept"]


def test_twice(grown: Path, source: Path, has: int, tmp_path: Path) -> None:
    new = kept.train_tokenizer([corpus(tmp_path, GERMAN)], tmp_path / "n", vocab_size=300, like=grown)
    merged = kept.merge_tokenizers(grown, new.path, tmp_path / "merged")
    out = kept.expand(grown, tmp_path / "out", tokenizer=merged.path, verify_tokens=64).path
    record = read_json(out / "kept.json")
    assert record["new_tokens"] == [has, merged.after]
    assert [one["new"] for one in record["vocabularies"]] == [[HAD, has], [has, merged.after]]
    assert kept.verify(grown, out, tokens=64).failure is None
    both: Any = (
        {"name": "expand-vocab", "tokenizer": str(grown)},
        {"name": "expand-vocab", "tokenizer": str(merged.path)},
    )
    once = kept.convert(source, tmp_path / "both", to="same", passes=[*both], verify_tokens=64)
    assert once.record["new_tokens"] == [HAD, merged.after]
    assert {name: t.tolist() for name, t in tensors_of(once.path).items()} == {
        name: t.tolist() for name, t in tensors_of(out).items()
    }


def test_a_conversion_carries_it_on(grown: Path, has: int, tmp_path: Path) -> None:
    record = kept.convert(grown, tmp_path / "out", to="mistral", verify_tokens=0).record
    assert (record["new_tokens"], record["vocabularies"][0]["new"]) == ([HAD, has], [HAD, has])
    wrong = shutil.copytree(grown, tmp_path / "wrong")
    for value in (7, [{"before": 3}], [{"before": 1, "after": 10**9}]):
        change_json(wrong / "kept.json", vocabularies=value)
        with pytest.raises(CheckpointError, match=r"kept\.json: .*vocabularies"):
            kept.convert(wrong, tmp_path / "no", to="mistral", verify_tokens=0)


# ------------------------------------------------------------------------------------------------------------ learning


def learn(student: Path, out: Path, *words: object) -> Any:
    lines = out.with_suffix(".jsonl")
    texts = [f"{line} {line} {number}" for number, line in enumerate((KOREAN * 20).splitlines())]
    lines.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    of_texts = (
        "--kl",
        0,
        "--ce",
        1,
        "--data",
        lines,
        "--tokens",
        "6K",
        "--sequence-length",
        32,
        "--learning-rate",
        "2e-2",
    )
    result = run("heal", student, *of_texts, *words, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("tied", [False, True])
def test_only_new_rows_are_trained(tied: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    small = model(tmp_path / "llama", tie_word_embeddings=tied, dtype=torch.bfloat16)
    new = kept.train_tokenizer([corpus(tmp_path, KOREAN)], tmp_path / "new", vocab_size=380, like=small).path
    merged = kept.merge_tokenizers(small, new, tmp_path / "merged")
    student = kept.expand(small, tmp_path / "grown", tokenizer=merged.path, pad_to_multiple_of=64, verify_tokens=0).path
    record = learn(student, tmp_path / "out", "--train", "new")
    first, *_, last = (one["losses"]["loss"] for one in record["healed"]["groups"]["student"]["held_out"])
    assert last < first - 0.05
    count = (merged.after - HAD) * 64 * (1 if tied else 2)
    assert record["healed"]["trained"]["parameters"] == count
    before, after = tensors_of(student), tensors_of(tmp_path / "out")
    for name, tensor in before.items():
        same = after[name].view(torch.int16) == tensor.view(torch.int16)
        if name in {EMBEDDING, HEAD}:
            assert bool(same[:HAD].all())
            assert bool(same[merged.after :].all())
            assert not bool(same[HAD : merged.after].all())
        else:
            assert bool(same.all()), name
    tokens = ids(small, ENGLISH)
    found, wanted = (stock_logits(path, tokens, torch.bfloat16) for path in (tmp_path / "out", small))
    assert torch.equal(found[..., :HAD], wanted)
    assert kept.verify(small, tmp_path / "out", tokens=64).identical


def test_whole_matrices_learn_where_they_are_named(grown: Path, tmp_path: Path) -> None:
    """Negative control of the test above."""
    record = learn(grown, tmp_path / "out", "--train", "new+embedding.*")
    before, after = tensors_of(grown), tensors_of(tmp_path / "out")
    assert not torch.equal(after[EMBEDDING][:HAD], before[EMBEDDING][:HAD])
    assert torch.equal(after[HEAD][:HAD], before[HEAD][:HAD])
    assert record["healed"]["trained"]["parameters"] == before[EMBEDDING].numel() + before[HEAD][HAD:].numel()


def test_layers_and_rows_are_trained_together(source: Path, tokenizer: Path, tmp_path: Path) -> None:
    both = kept.expand(source, tmp_path / "both", groups=1, tokenizer=tokenizer, verify_tokens=0).path
    learn(both, tmp_path / "out", "--train", "new")
    before, after = tensors_of(both), tensors_of(tmp_path / "out")
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed == {EMBEDDING, HEAD, *(name for name in before if ".layers.4." in name)}
    assert torch.equal(after[HEAD][:HAD], before[HEAD][:HAD])


def test_rows_learn_alike_on_two_ranks_and_after_a_stop(
    grown: Path, has: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank holds some of the rows that learn; a run that is killed on two goes on alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = tmp_path / "lines.jsonl"
    texts = (f"{line} {number}" for number, line in enumerate((KOREAN * 6).splitlines()))
    lines.write_text("\n".join(json.dumps({"text": text}) for text in texts))

    def asked(name: str) -> HealSettings:
        options = {"teacher": None, "kl": 0.0, "ce": 1.0, "train": "new"}
        return settings((grown, grown), lines, tmp_path / name, **options)

    run_heal(asked("one"))
    assert -signal.SIGKILL in finish(start(asked("two"), "named 5", ranks=2))
    assert finish(start(asked("two"))) == [0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    before, one, two = (tensors_of(path) for path in (grown, tmp_path / "one", tmp_path / "two"))
    for name in (EMBEDDING, HEAD):
        assert torch.equal(one[name][:HAD], before[name][:HAD])
        assert torch.equal(two[name][:HAD], before[name][:HAD])
        assert torch.allclose(one[name], two[name], atol=1e-4)
        assert not torch.equal(one[name][HAD:has], before[name][HAD:has])


def test_a_smaller_teacher_is_refused(source: Path, grown: Path, has: int, tmp_path: Path) -> None:
    result = run(
        "heal", grown, "--teacher", source, "--train", "new", "--sequence-length", 32, "--out", tmp_path / "out"
    )
    line = f"kept: {grown}: has {has} tokens, its teacher {source} has {HAD}; name a teacher with "
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(line)


# -------------------------------------------------------------------------------------------------------- command line


def test_in_words(source: Path, tmp_path: Path) -> None:
    text = corpus(tmp_path, KOREAN)
    said = run("tokenizer", "train", text, "--like", source, "--vocab-size", 380, "--out", tmp_path / "new")
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith(f"{tmp_path}/new: written (byte-level BPE, 380 tokens); ")
    said = run("tokenizer", "merge", source, tmp_path / "new", "--out", tmp_path / "merged", "--text", text)
    assert said.stdout.splitlines()[0].startswith(f"{tmp_path}/merged: written (461 tokens; before: 340)")
    assert said.stdout.splitlines()[-1].startswith(f"{text}: ")
    said = run("expand", source, tmp_path / "out", "--tokenizer", tmp_path / "merged", "--verify-tokens", 64)
    lines = said.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/out: written (expand-vocab)"
    assert lines[1].startswith("new tokens: ")
    assert lines[-1] == "promise exact: kept"


def test_as_data(source: Path, tmp_path: Path) -> None:
    text = corpus(tmp_path, KOREAN)
    trained = run(
        "tokenizer", "train", text, "--kind", "byte-level", "--vocab-size", 380, "--out", tmp_path / "new", "--json"
    )
    assert json.loads(trained.stdout)["tokens"] == 380
    words = (
        "tokenizer",
        "merge",
        source,
        tmp_path / "new",
        "--out",
        tmp_path / "merged",
        "--max-added-tokens",
        9,
        "--json",
    )
    merged = json.loads(run(*words).stdout)
    assert (merged["before"], merged["after"]) == (340, 349)
    assert merged["token_counts"][0]["per_character"][1] <= merged["token_counts"][0]["per_character"][0]
    said = run(
        "expand", source, tmp_path / "out", "--tokenizer", tmp_path / "merged", "--embedding-init", "zero", "--dry-run"
    )
    assert "new tokens: 9, from id 340 on (initial rows: zero)" in said.stdout
    assert not (tmp_path / "out").exists()


def test_a_pass_of_a_recipe_file(source: Path, tokenizer: Path, has: int, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    ends = f'source = "{source}"\nout = "{tmp_path}/out"\nto = "same"\nverify_tokens = 0\n'
    named = '[[passes]]\nname = "expand-vocab"\n'
    recipe.write_text(f'{ends}{named}tokenizer = "{tokenizer}"\nembedding_init = "mean"\n')
    assert json.loads(run("convert", "--recipe", recipe, "--json").stdout)["new_tokens"] == [HAD, has]
    for option, line in (
        ("tokenizer = 3", "7: pass 1: tokenizer: is 3, it must be text in quotes"),
        ('embedding_init = "zero"', "5: pass 1: tokenizer: is missing\n"),
        ('growth = "a"\ntokenizer = "t"', "7: pass 1: growth: is not an option of expand-vocab"),
        ('pad_to_multiple_of = 0\ntokenizer = "t"', "7: pass 1: pad_to_multiple_of: is 0, it must be from 1 to 4096"),
    ):
        recipe.write_text(f"{ends}{named}{option}\n")
        assert run("convert", "--recipe", recipe).stderr.startswith(f"kept: {recipe}:{line}")


def test_a_step_of_several(source: Path, tokenizer: Path, has: int, tmp_path: Path) -> None:
    """Layers and tokens in one step, tokens alone in another, and a conversion behind."""
    recipe = tmp_path / "recipe.toml"
    first = f'[[steps]]\ndo = "expand"\nsource = "{source}"\nverify_tokens = 0\n'
    last = '[[steps]]\ndo = "convert"\nto = "mistral"\nverify_tokens = 0\n'
    for name, more, layers in (("tokens", "", []), ("both", "groups = 2\n", [2, 5])):
        recipe.write_text(f'out = "{tmp_path / name}"\n{first}{more}tokenizer = "{tokenizer}"\n{last}')
        result = run("run", recipe, "--json")
        assert result.exit_code == 0, result.output
        record = json.loads(result.stdout)["record"]
        assert (record["new_tokens"], record["new_layers"]) == ([HAD, has], layers)
        assert kept.verify(source, tmp_path / name, tokens=64).failure is None
    recipe.write_text(f'out = "{tmp_path / "no"}"\n{first}tokenizer = "nowhere"\n{last}')
    assert run("run", recipe).stderr == "kept: step 1 (expand): tokenizer: nowhere does not exist\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "--embedding-init zero",
            "tokenizer: is missing; embedding_init and pad_to_multiple_of are about its new tokens",
        ),
        (
            "--groups 2 --embedding-init zero",
            "tokenizer: is missing; embedding_init and pad_to_multiple_of are about its new tokens",
        ),
        ("--tokenizer nowhere", "nowhere: is not a directory; name one with a tokenizer"),
        ("--tokenizer {source}", "{source}: has the tokens of {source} and no more; there is nothing to grow by"),
        ("--tokenizer {tokenizer} --embedding-init median", "embedding_init: median: "),
        (f"--tokenizer {'x' * 5000}", "xxx"),
        (f"--tokenizer {{tokenizer}} --embedding-init {'x' * 5000}", "embedding_init: xxx"),
        ("--tokenizer {tokenizer} --pad-to-multiple-of 0", "pad_to_multiple_of: is 0, it must be from 1 to 4096"),
        ("--tokenizer {tokenizer} --groups 9", "expand-blocks: groups: are 9, the model has 4 layers"),
    ],
)
def test_what_is_wrong_is_one_line(source: Path, tokenizer: Path, tmp_path: Path, words: str, line: str) -> None:
    places = {"source": source, "tokenizer": tokenizer}
    result = run("expand", source, tmp_path / "out", *words.format(**places).split())
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert result.stderr.startswith(f"kept: {line.format(**places)}")
    assert not [*tmp_path.iterdir()]


def test_rows_that_do_not_fit(source: Path, tokenizer: Path, has: int, tmp_path: Path) -> None:
    save_file({"embedding": torch.zeros(3, 64)}, tmp_path / "rows.safetensors")
    result = run(
        "expand", source, tmp_path / "out", "--tokenizer", tokenizer, "--embedding-init", tmp_path / "rows.safetensors"
    )
    wanted = f"embedding: has shape [3, 64], the new tokens need [{has - HAD}, 64]; give a row for each of them\n"
    assert result.stderr == f"kept: expand-vocab: {tmp_path}/rows.safetensors: {wanted}"


def test_a_model_with_fewer_rows_than_tokens(tokenizer: Path, source: Path, tmp_path: Path) -> None:
    small = shutil.copytree(source, tmp_path / "small")
    change_json(small / "config.json", vocab_size=339)
    tensors = tensors_of(source)
    save_file(
        {**tensors, EMBEDDING: tensors[EMBEDDING][:339].clone(), HEAD: tensors[HEAD][:339].clone()},
        small / "model.safetensors",
        metadata={"format": "pt"},
    )
    result = run("expand", small, tmp_path / "out", "--tokenizer", tokenizer)
    assert "the model: has 339 tokens, its own tokenizer gives id 339; correct its tokenizer first" in result.stderr


def test_rows_without_a_tokenizer(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"^tokenizer: is missing; embedding_init and pad_to_multiple_of are about its new tokens$"
    ):
        kept.expand(source, tmp_path / "out", groups=1, pad_to_multiple_of=64)

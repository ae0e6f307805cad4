"""Recipes of healing: what is not understood is named with its file, line and key; flags win."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kept.distillation.settings import HealSettings
from kept.errors import RecipeError
from kept.settings_model import json_schema, model_fields

EXAMPLE = Path(__file__).parents[2] / "recipes" / "heal-plain-llama.toml"

ENDS: dict[str, Any] = {"student": "s", "teacher": "t", "out": "o"}

BEGIN = "student = 's'\nteacher = 't'\nout = 'o'\n"

LARGE = (
    "learning_rate",
    "kl",
    "max_grad_norm",
    "lora_alpha",
    "hold_out",
    "gradient_accumulation",
    "temperature",
    "batch_size",
    "lora_rank",
    "seed",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.toml"


def refusal(file: Path, text: str, **overrides: Any) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        HealSettings.load(file, **overrides)
    return str(caught.value).replace(f"{file.parent}/", "")


def test_the_example_is_a_recipe() -> None:
    found = HealSettings.load(EXAMPLE)
    assert found.data == ("english=corpus/en", "korean=corpus/ko")
    assert (found.tokens, found.dtype, found.gradient_checkpointing) == (2_000_000, "bfloat16", True)


def test_settings_are_what_their_table_says() -> None:
    made = replace(
        HealSettings(**ENDS), data=("a=b", "c"), learning_rate=3e-4, compile=True, patience=3, mixture="a=1,c=2"
    )
    assert HealSettings.from_table(made.to_dict()) == made


def test_a_cache_of_samples_needs_who_sampled_them() -> None:
    words = "data: is self, which the teacher samples; give the --data that the cache cache was made of, or --teacher"
    with pytest.raises(RecipeError, match=words):
        HealSettings(student="s", out="o", teacher_cache="cache")
    HealSettings(student="s", out="o", teacher_cache="cache", data=("corpus",))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (1, 0, 0, 0)),
        ({"kl": 0.5}, (0.5, 0, 0, 0)),
        ({"ce": 0.5}, (1, 0, 0, 0.5)),
        ({"kl": 0, "ce": 1}, (0, 0, 0, 1)),
        ({"loss": "kl", "kl": 2}, (2, 0, 0, 0)),
        ({"loss": "ce"}, (0, 0, 0, 1)),
        ({"loss": "ce", "kl": 0.1}, (0.1, 0, 0, 1)),
        ({"loss": "ce", "ce": 0.5}, (0, 0, 0, 0.5)),
        ({"loss": "jsd", "ce": 0.5}, (0, 0, 1, 0.5)),
        ({"loss": "reverse_kl"}, (0, 1, 0, 0)),
    ],
)
def test_the_loss_is_a_weight_where_none_is_given(given: dict[str, Any], wanted: tuple[float, ...]) -> None:
    found = HealSettings.from_table(ENDS, **given)
    assert (found.kl, found.reverse_kl, found.jsd, found.ce) == wanted
    assert HealSettings.from_table({**ENDS, **given}) == found, "a recipe says it as flags do"


def test_text_alone_needs_no_teacher() -> None:
    found = HealSettings.from_table({"student": "s", "out": "o"}, loss="ce", data=("corpus",))
    assert (found.teacher, found.kl, found.ce) == (None, 0, 1)


def test_a_flag_s_loss_wins_over_a_recipe_s(file: Path) -> None:
    file.write_text(BEGIN + "loss = 'ce'\n", encoding="utf-8")
    assert HealSettings.load(file, loss="jsd").objective.divergences == {"kl": 0, "reverse_kl": 0, "jsd": 1}


def test_flags_win_and_none_is_not_given(file: Path) -> None:
    learns = "tokens = '2M'\nlearning_rate = 1e-2\ngradient_checkpointing = true\ndata = 'x'\n"
    file.write_text(BEGIN + learns, encoding="utf-8")
    found = HealSettings.load(file, tokens="500K", learning_rate=None, gradient_checkpointing=False)
    wanted = HealSettings(**ENDS, tokens=500_000, learning_rate=1e-2, gradient_checkpointing=False, data=("x",))
    assert found == wanted


@pytest.mark.parametrize(
    ("written", "wanted"),
    [("2M", 2 * 10**6), ("500K", 500_000), ("1.5b", 15 * 10**8), ("2_000", 2000), (" 7 ", 7), (12, 12), ("0.5K", 500)],
)
def test_numbers_of_tokens(written: object, wanted: int) -> None:
    assert HealSettings.from_table(ENDS, tokens=written).tokens == wanted


@pytest.mark.parametrize("written", ["", "many", "2 M tokens", "2MB", "-2M", "1.5", "0.0005K", True, 2.5, "٣", "1e6"])
def test_an_invalid_number_of_tokens(written: object) -> None:
    with pytest.raises(RecipeError, match=r"^tokens: is .*, write it as 2M, 500K or 2000000$"):
        HealSettings.from_table(ENDS, tokens=written)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacher = 't'\nout = 'o'", "recipe.toml: student: is missing"),
        ("teacher = 't'\nstudent = 's'", "recipe.toml: out: is missing"),
        ("student = 's'\nout = 'o'", "recipe.toml: teacher: is missing: the loss compares with a teacher"),
        (BEGIN + "toknes = 3", "recipe.toml:4: toknes: is not a key of a recipe; did you mean tokens?"),
        (BEGIN + "rate = 1e-3", "recipe.toml:4: rate: is now learning_rate"),
        (BEGIN + "measure_every = 3", "recipe.toml:4: measure_every: is now eval_every"),
        (BEGIN + "save-every = 3", "recipe.toml:4: save-every: is not a key of a recipe; did you mean save_every?"),
        (
            BEGIN + "teacher-cache = 'c'",
            "recipe.toml:4: teacher-cache: is not a key of a recipe; did you mean teacher_",
        ),
        (BEGIN + "[loss]\nkl = 1.0", "recipe.toml: loss: is {'kl': 1.0}; it must be one of kl, reverse_kl"),
        (BEGIN + "loss = 'cee'", "recipe.toml:4: loss: is 'cee'; did you mean ce?; it must be one of kl, reverse_kl"),
        (BEGIN + "loss = 'ce'\nce = 0", "recipe.toml: kl: is 0.0, it must be above 0 where no other loss is"),
        ("student = 's'\nout = 'o'\nloss = 'ce'", "recipe.toml: data: is self, which the teacher samples; give --data"),
        ("student = 's'\nout = 'o'\nloss = 'jsd'\ndata = 'x'", "recipe.toml: teacher: is missing: the loss"),
        (BEGIN + "eval_data = [1]", "recipe.toml:4: eval_data: is [1], it must be a list of texts in quotes"),
        (BEGIN + "tokens = 'many'", "recipe.toml:4: tokens: is 'many', write it as 2M"),
        (BEGIN + "tokens = 0", "recipe.toml:4: tokens: is 0, it must be at least 1"),
        (BEGIN + "batch_size = '8'", "recipe.toml:4: batch_size: is '8', it must be a whole number"),
        (BEGIN + "batch_size = 8.0", "recipe.toml:4: batch_size: is 8.0, it must be a whole number"),
        (BEGIN + "learning_rate = 'fast'", "recipe.toml:4: learning_rate: is 'fast', it must be a number"),
        (BEGIN + "learning_rate = true", "recipe.toml:4: learning_rate: is True, it must be a number"),
        (BEGIN + "learning_rate = nan", "recipe.toml:4: learning_rate: is nan, it must be a finite number"),
        (BEGIN + "weight_decay = inf", "recipe.toml:4: weight_decay: is inf, it must be a finite number"),
        *[(BEGIN + f"{key} = {'9' * 18}", f"recipe.toml:4: {key}: is too large, it must be at most") for key in LARGE],
        (BEGIN + f"learning_rate = {'9' * 400}", "recipe.toml: has an integer of 1329 bits, TOML allows 64"),
        (BEGIN + "learning_rate = 0x1" + "0" * 5000, "recipe.toml: has an integer of 20001 bits, TOML allows 64"),
        (BEGIN + "learning_rate = " + "9" * 5000, "recipe.toml: Exceeds the limit"),
        (BEGIN + "temperature = 1e300", "recipe.toml:4: temperature: is too large"),
        (BEGIN + "tokens = '900000000B'", "recipe.toml:4: tokens: is too large, it must be at most 1000000000000000"),
        (
            BEGIN + "batch_size = 1000000000",
            "recipe.toml:4: batch_size: is 1000000000, it must be smaller: a step has at most 1000000000",
        ),
        (BEGIN + "jsd_beta = 0", "recipe.toml:4: jsd_beta: is 0, it must be between 0 and 1"),
        (BEGIN + "jsd_beta = 1.0", "recipe.toml:4: jsd_beta: is 1.0, it must be between 0 and 1"),
        (BEGIN + "compile = 1", "recipe.toml:4: compile: is 1, it must be true or false"),
        (BEGIN + "data = [1]", "recipe.toml:4: data: is [1], it must be a list of texts in quotes"),
        (BEGIN + "data = []", "recipe.toml:4: data: is (), it must be one or more"),
        (BEGIN + "lr_schedule = 'cosin'", "recipe.toml:4: lr_schedule: is 'cosin'; did you mean cosine?"),
        (BEGIN + "dtype = 'fp8'", "recipe.toml:4: dtype: is 'fp8'; it must be one of float32, bfloat16"),
        (BEGIN + "student = 't'", "recipe.toml: Cannot overwrite a value"),
    ],
)
def test_what_is_not_understood_is_named(file: Path, text: str, message: str) -> None:
    assert refusal(file, text).startswith(message)


LAYERWISE = BEGIN + "layerwise = true\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAYERWISE + "loss = 'ce'", "recipe.toml: kl: is 0.0, it must be left out with layerwise, which computes no"),
        (
            LAYERWISE + "hidden = 1.0",
            "recipe.toml:5: hidden: is 1.0, it must be left out with layerwise, which",
        ),
        (
            LAYERWISE + "compile = true",
            "recipe.toml:5: compile: is True, it must be left out with layerwise, which",
        ),
        (LAYERWISE + "train = 'norms+lora'", "recipe.toml:5: train: is 'norms+lora', it must be without lora where"),
        (LAYERWISE.replace("teacher = 't'\n", ""), "recipe.toml: teacher: is None, it must be a checkpoint, whose bra"),
        (
            BEGIN + "train = 'changed'",
            "recipe.toml:4: train: is 'changed', it must be something else than changed",
        ),
        (BEGIN + "whiten = false", "recipe.toml:4: whiten: is False, it must be left out without layerwise"),
    ],
)
def test_layerwise_runs_have_settings_of_their_own(file: Path, text: str, message: str) -> None:
    assert refusal(file, text).startswith(message)


def test_a_layerwise_run_trains_what_changed_unless_told(file: Path) -> None:
    file.write_text(LAYERWISE)
    assert HealSettings.load(file).train == "changed"
    assert HealSettings.load(file, train="layers.0.*").train == "layers.0.*"
    file.write_text(BEGIN)
    assert HealSettings.load(file).train == "norms"


def test_a_wrong_flag_is_not_blamed_on_the_file(file: Path) -> None:
    assert refusal(file, BEGIN, tokens="many").startswith("tokens: is 'many'")


def test_a_recipe_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.toml: there is no such recipe"):
        HealSettings.load(tmp_path / "gone.toml")


def test_settings_made_in_python_are_held_to_their_kinds() -> None:
    with pytest.raises(RecipeError, match=r"data: is \[1\], it must be a list of texts in quotes"):
        HealSettings(**ENDS, data=[1])  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"batch_size: is 8\.5, it must be a whole number"):
        HealSettings(**ENDS, batch_size=8.5)  # type: ignore[arg-type]


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(RecipeError, match="warmup: is 2, it must be from 0 to 1"):
        replace(HealSettings(**ENDS), warmup=2)


def test_an_error_says_where_it_is_in_fields(file: Path) -> None:
    file.write_text(BEGIN + "warmup = 2.0", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        HealSettings.load(file)
    error = caught.value
    assert (error.key, error.loc, error.file, error.line) == ("warmup", ("warmup",), file, 4)
    assert error.problem == "is 2.0, it must be from 0 to 1"


def test_the_schema_describes_every_key() -> None:
    schema = json_schema(HealSettings)
    assert set(schema["properties"]) == {*model_fields(HealSettings), "loss"}
    assert all("description" in one for one in schema["properties"].values())
    assert (schema["required"], schema["additionalProperties"]) == (["student", "out"], False)
    assert schema["properties"]["warmup"]["maximum"] == 1
    assert schema["properties"]["lr_schedule"]["enum"] == ["cosine", "wsd", "constant"]

"""Recipes: what is not understood is an error that names the file, the line, the key and the nearest word."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.commands.recipe_steps import load_steps
from kept.errors import RecipeError
from kept.passes import PASSES, Pass
from kept.passes.cast_to import CastTo
from kept.passes.centre import Centre
from kept.passes.drop_window import LimitContext
from kept.passes.expand_blocks import ExpandBlocks, Placement
from kept.passes.fill_biases import FillBiases
from kept.passes.layer_norm_to_rms import MODES, LayerNormToRms
from kept.passes.rules import Options
from kept.recipe import DTYPES, Recipe, load_recipe, recipe_from  # type: ignore[attr-defined]

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("orion-*.toml"))

ENDS: dict[str, Any] = {"source": "a", "out": "b"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.toml"


def refusal(file: Path, text: str, **overrides: Any) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(file.parent) + "/", "")


# ------------------------------------------------------------------------------------------------------------- bombs


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "[" * 100_000 + "]" * 100_000,
        "a = " + "{a = " * 50_000,
        ".".join("a" * 50_000) + " = 1",
        "[" + ".".join("a" * 50_000) + "]",
    ],
)
def test_a_recipe_that_nests_too_deep(file: Path, text: str) -> None:
    assert refusal(file, text).startswith("recipe.toml")


def test_a_recipe_that_is_too_long(file: Path) -> None:
    assert "has more than 1 MB; is it a recipe?" in refusal(file, "#" * (1 << 20) + "\nsource = 1")


@pytest.mark.parametrize(
    "value", ["9" * 5000, "9" * 4000, "-" + "9" * 4000, "0x" + "f" * 100_000, "1e999999", "'" + "x" * 10**6 + "'"]
)
def test_values_without_end(file: Path, value: str) -> None:
    for key in ("context", "verify_tokens", "max_shard_size", "to", "what"):
        assert len(refusal(file, f"source = 'a'\nout = 'b'\n{key} = {value}")) < 2500


def test_many_dots_in_a_text_are_no_keys(file: Path) -> None:
    named = ", ".join(f"'a.{n}.txt'" for n in range(100))
    assert "what: is not a key" in refusal(file, f"source = 'a'\nout = '{'../' * 100}b'\nwhat = [{named}]")


def test_a_recipe_of_thousands_of_passes_or_steps(file: Path) -> None:
    ends = "source = 'a'\nout = 'b'\n"
    assert "passes: are 5000, a plan has at most" in refusal(file, ends + "[[passes]]\nname = 'centre'\n" * 5000)
    file.write_text("out = 'b'\n" + "[[steps]]\ndo = 'convert'\nsource = 'a'\n" * 5000)
    with pytest.raises(RecipeError, match="steps: are 5000, a recipe has at most 100"):
        load_steps(file)


# ---------------------------------------------------------------------------------------------------- what is read


def test_a_full_recipe(file: Path) -> None:
    file.write_text(
        """
        source = "path/to/orion"
        out = "out/llamion"
        to = "llama"
        norm = "opm"
        final_bias = "drop"
        context = 64
        dtype = "bfloat16"
        max_shard_size = "500MB"
        text = "my.txt"
        verify_tokens = 128

        [[passes]]
        name = "limit-context"
        tokens = 32

        [[passes]]
        name = "layernorm-to-rmsnorm"
        mode = "opm-centred"

        [[passes]]
        name = "fill-biases"
        biases = ["attention.o", "dense.down"]

        [[passes]]
        name = "centre"
        """,
        encoding="utf-8",
    )
    assert load_recipe(file) == Recipe(
        source="path/to/orion",
        out="out/llamion",
        to="llama",
        norm="opm",
        final_bias="drop",
        context=64,
        dtype="bfloat16",
        max_shard_size="500MB",
        text="my.txt",
        verify_tokens=128,
        passes=(LimitContext(32), LayerNormToRms("opm-centred"), FillBiases(("attention.o", "dense.down")), Centre()),
    )


def test_the_least_recipe() -> None:
    recipe = recipe_from(ENDS)
    assert recipe == Recipe("a", "b")
    assert recipe.options == Options()
    assert recipe.shard_bytes == 5_000_000_000


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_the_recipes_that_come_along_are_understood(recipe: Path) -> None:
    load_recipe(recipe)


@pytest.mark.parametrize(("word", "ours"), DTYPES.items())
def test_dtypes_are_in_the_words_of_torch(word: str, ours: str) -> None:
    assert recipe_from({**ENDS, "dtype": word}).options.dtype == ours


@pytest.mark.parametrize(
    ("size", "wanted"),
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1.5 kb", 1500), (" 7b ", 7), ("0.5MB", 500_000), ("10 GB", 10**10)],
)
def test_sizes_are_decimal(size: str, wanted: int) -> None:
    assert recipe_from({**ENDS, "max_shard_size": size}).shard_bytes == wanted


# ------------------------------------------------------------------------------------------------------ what is not


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('source = "a"\nout = "b"\nnrom = "opm"', "recipe.toml:3: nrom: is not a key of a recipe; did you mean norm?"),
        ('source = "a"\nout = "b"\nxyzzy = 1', "recipe.toml:3: xyzzy: is not a key of a recipe"),
        ('"sourc" = "a"\nout = "b"', "recipe.toml:1: sourc: is not a key of a recipe; did you mean source?"),
        ('source = "a"', "recipe.toml: out: is missing"),
        ('out = "a"', "recipe.toml: source: is missing"),
        ("", "recipe.toml: source: is missing"),
        ("source = 3\nout = 'b'", "recipe.toml:1: source: is 3, it must be text in quotes"),
        ("source = 'a'\nout = ['b']", "recipe.toml:2: out: is ['b'], it must be text in quotes"),
        ("source = 'a'\nout = 'b'\nto = true", "recipe.toml:3: to: is True, it must be text in quotes"),
        ("source = 'a'\nout = 'b'\ncontext = '64'", "recipe.toml:3: context: is '64', it must be a whole number"),
        ("source = 'a'\nout = 'b'\ncontext = 64.0", "recipe.toml:3: context: is 64.0, it must be a whole number"),
        ("source = 'a'\nout = 'b'\ncontext = true", "recipe.toml:3: context: is True, it must be a whole number"),
        ("source = 'a'\nout = 'b'\ncontext = 0", "recipe.toml:3: context: is 0, it must be at least 1"),
        ("source = 'a'\nout = 'b'\nverify_tokens = 1", "recipe.toml:3: verify_tokens: is 1, it must be 0"),
        ("source = 'a'\nout = 'b'\nverify_tokens = -4", "recipe.toml:3: verify_tokens: is -4, it must be 0"),
        ("source = 'a'\nout = 'b'\n\n# note\nto = 'lama'", "recipe.toml:5: to: is 'lama'; did you mean llama?"),
        ("source = 'a'\nout = 'b'\nnorm = 'omp'", "recipe.toml:3: norm: is 'omp'; did you mean opm?"),
        ("source = 'a'\nout = 'b'\nfinal_bias = 'x'", "recipe.toml:3: final_bias: is 'x'; it must be one of block"),
        ("source = 'a'\nout = 'b'\ndtype = 'BF16'", "recipe.toml:3: dtype: is 'BF16'; it must be one of float64"),
        (
            "source = 'a'\nout = 'b'\nmax_shard_size = '5'",
            "recipe.toml:3: max_shard_size: is '5', write it as 5GB or 500MB",
        ),
        ("source = 'a'\nout = 'b'\nmax_shard_size = '0GB'", "recipe.toml:3: max_shard_size: is '0GB'"),
        ("source = 'a'\nout = 'b'\nmax_shard_size = '-1GB'", "recipe.toml:3: max_shard_size: is '-1GB'"),
        (
            "source = 'a'\nout = 'b'\nmax_shard_size = 5",
            "recipe.toml:3: max_shard_size: is 5, it must be text in quotes",
        ),
        ("source = 'a'\nout = 'b'\npasses = 3", "recipe.toml:3: passes: is 3, it must be a list of tables"),
        ("source = 'a'\nout = 'b'\n[passes]\nname = 'centre'", "recipe.toml: passes: is {'name': 'centre'}, it must"),
    ],
)
def test_what_is_not_understood_is_named(file: Path, text: str, message: str) -> None:
    assert refusal(file, text).startswith(message)


TWO = "source = 'a'\nout = 'b'\n[[passes]]\nname = 'limit-context'\ntokens = 8\n[[passes]]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'center'", ":7: pass 2: name: 'center' is not a pass; did you mean centre?; there are affine-tail"),
        ("name = ['centre']", ":7: pass 2: name: every pass is a table with a name"),
        ("tokens = 3", ":6: pass 2: name: every pass is a table with a name"),
        ("name = 'centre'\ntokens = 3", ":8: pass 2: tokens: is not an option of centre"),
        ("name = 'limit-context'\ntoken = 3", ":8: pass 2: token: is not an option of limit-context; did you mean tok"),
        ("name = 'limit-context'\ntokens = '3'", ":8: pass 2: tokens: is '3', it must be a whole number"),
        ("name = 'limit-context'", ":6: pass 2: tokens: is missing"),
        ("name = 'fill-biases'\nbiases = [1]", ":8: pass 2: biases: is [1], it must be a list of texts"),
        (
            "name = 'layernorm-to-rmsnorm'\nmode = 'op'",
            ":8: pass 2: mode: is 'op'; did you mean opm?; it must be one of exact, opm",
        ),
        ("name = 'layernorm-to-rmsnorm'\ngains = 'x'", ":8: pass 2: gains: is not an option of layernorm-to-rmsnorm"),
        ("name = 'cast'\ndtype = 3", ":8: pass 2: dtype: is 3, it must be text in quotes"),
    ],
)
def test_the_line_is_in_the_pass_that_is_wrong(file: Path, text: str, message: str) -> None:
    found = refusal(file, TWO.replace("'limit-context'", '"limit-context"') + text.replace("'", '"'))
    assert found.startswith("recipe.toml" + message)


def test_passes_in_one_line_have_its_line(file: Path) -> None:
    found = refusal(file, "source = 'a'\nout = 'b'\npasses = [{name = 'centre'}, {name = 'center'}]")
    assert found.startswith("recipe.toml:3: pass 2: name: 'center' is not a pass")


def test_toml_that_is_none(file: Path) -> None:
    assert "recipe.toml: Invalid value" in refusal(file, "source = ")
    file.write_bytes(b"\xff")
    with pytest.raises(RecipeError, match=r"recipe\.toml: 'utf-8' codec"):
        load_recipe(file)


def test_a_recipe_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.toml: there is no such recipe"):
        load_recipe(tmp_path / "gone.toml")
    with pytest.raises(RecipeError, match="Is a directory"):
        load_recipe(tmp_path)


# -------------------------------------------------------------------------------------------------------- overrides


def test_overrides_win_and_none_is_not_given(file: Path) -> None:
    file.write_text('source = "a"\nout = "b"\nnorm = "opm"\ncontext = 8', encoding="utf-8")
    recipe = load_recipe(file, out="c", context=9, dtype="float32", text=None)
    assert recipe == Recipe("a", "c", norm="opm", context=9, dtype="float32")


def test_overrides_may_be_all_that_a_file_lacks(file: Path) -> None:
    file.write_text('norm = "opm"', encoding="utf-8")
    assert load_recipe(file, source="a", out="b") == Recipe("a", "b", norm="opm")


def test_a_wrong_override_is_not_blamed_on_the_file(file: Path) -> None:
    text = 'source = "a"\nout = "b"\nnorm = "opm"'
    assert refusal(file, text, norm="omp").startswith("norm: is 'omp'; did you mean opm?")
    assert refusal(file, text, contxt=4).startswith("contxt: is not a key of a recipe; did you mean context?")


def test_passes_may_be_given_as_passes() -> None:
    assert recipe_from({**ENDS, "passes": [Centre(), {"name": "centre"}]}).passes == (Centre(), Centre())


# ------------------------------------------------------------------------------------------------------- round trip


def made_passes() -> st.SearchStrategy[Pass]:
    """Every pass with every option that a recipe can set."""
    simple = [kind for kind in PASSES.values() if not fields(kind)]
    return st.one_of(
        st.sampled_from([kind() for kind in simple]),
        st.builds(LimitContext, st.integers(1, 99)),
        st.builds(CastTo, st.sampled_from([*DTYPES.values()])),
        st.builds(LayerNormToRms, st.sampled_from(MODES)),
        st.builds(ExpandBlocks, st.integers(1, 4), st.integers(1, 4), st.sampled_from(get_args(Placement))),
        st.builds(ExpandBlocks, at=st.sets(st.integers(0, 9), min_size=1).map(lambda found: tuple(sorted(found)))),
        st.builds(FillBiases, st.sampled_from([(), ("attention.o",), ("dense.up", "dense.down")])),
    )


@given(
    st.builds(
        Recipe,
        source=st.just("a"),
        out=st.just("b"),
        norm=st.sampled_from(MODES),
        final_bias=st.sampled_from(["block", "drop"]),
        context=st.none() | st.integers(1, 99),
        dtype=st.none() | st.sampled_from([*DTYPES]),
        max_shard_size=st.sampled_from(["5GB", "1KB"]),
        text=st.none() | st.just("t"),
        verify_tokens=st.none() | st.sampled_from([0, 2, 64]),
        passes=st.lists(made_passes(), max_size=3).map(tuple),
    )
)
def test_a_recipe_is_what_its_table_says(recipe: Recipe) -> None:
    assert recipe_from(recipe.to_dict()) == recipe


def test_the_table_says_the_choices_and_what_is_no_default() -> None:
    recipe = Recipe("a", "b", dtype="float32", passes=(FillBiases(("attention.o",)), LayerNormToRms("opm")))
    assert recipe.to_dict() == {
        "source": "a",
        "out": "b",
        "to": "llama",
        "norm": "exact",
        "final_bias": "block",
        "rope": "llama3",
        "dtype": "float32",
        "passes": [
            {"name": "fill-biases", "biases": ["attention.o"]},
            {"name": "layernorm-to-rmsnorm", "mode": "opm"},
        ],
    }


def test_every_pass_can_be_named_in_a_recipe() -> None:
    needed: dict[str, dict[str, Any]] = {
        "cast": {"dtype": "float32"},
        "drop-layers": {"layers": [1, 2]},
        "expand-blocks": {"at": [1, 2]},
        "expand-vocab": {"tokenizer": "out/merged"},
        "fill-biases": {"biases": ["attention.o"]},
        "limit-context": {"tokens": 4},
        "order-latent-pairs": {"interleaved": True},
        "replace-branches": {"file": "branches.safetensors"},
    }
    for name, kind in PASSES.items():
        (made,) = recipe_from({**ENDS, "passes": [{"name": name, **needed.get(name, {})}]}).passes
        assert type(made) is kind


def test_the_docstring_s_example_is_a_recipe() -> None:
    import kept.recipe

    text = str(kept.recipe.__doc__).split("```toml")[1].split("```")[0]
    assert recipe_from(tomllib.loads(text)).passes == (LayerNormToRms("opm"),)


def test_calibration_is_the_recipes_own_choice() -> None:
    table = {"source": "a", "out": "b", "passes": [{"name": "layernorm-to-rmsnorm", "mode": "calibrated"}]}
    with pytest.raises(RecipeError, match='norm = "calibrated"'):
        recipe_from(table)

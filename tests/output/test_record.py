"""The record and the card: plain data, whole, and free of when and where."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from kept.commands.plan import make_plan
from kept.families.llama import LLAMA
from kept.ir.promise import Promise
from kept.ir.serialise import from_json
from kept.loaded import open_model
from kept.output.input_files import FileSums
from kept.output.model_card import RESTRICTED, converted, model_card, origin_of
from kept.output.record import PassRecord, RecipeRecord, Record, SourceRecord
from kept.output.runtimes import notes
from kept.output.write_record import conversion_record, verification_table
from kept.passes import SUMMARIES
from kept.passes.fill_biases import FillBiases
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.recipe import Recipe
from kept.verification.parity import Parity
from kept.verification.verify import Continuation, Verification
from support.models import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from kept.loaded import LoadedModel
    from kept.passes.plan import Plan

PARITY = Parity(64, 2.0, 1e-5, 1e-6, -1e-18, 0.984375, 12.5, 12.25, (0.0, 1e-7))

PROOF = replace(PARITY, max_logit_error=1e-12, mean_logit_error=1e-13)

FOUND = Verification(
    promise=Promise.EXACT,
    text="my.txt",
    dtype="float32",
    copied=False,
    same=PARITY,
    proof=PROOF,
    output=PARITY,
    floor=PARITY,
    continuations=(Continuation("Once", " upon", " upon"),),
)

HASHES = FileSums({"model.safetensors": "aa"}, {"model.safetensors": "bb"})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return open_model(write_checkpoint(tmp_path_factory.mktemp("sources") / "my-orion", "orion"))


def planned(source: LoadedModel, **options: Any) -> tuple[Recipe, Plan]:
    recipe = Recipe(str(source.path), "somewhere/out", **options)
    return recipe, make_plan(source, recipe, unmeasured=True)


def card(source: LoadedModel, found: Verification | None = FOUND, **options: Any) -> str:
    _, plan = planned(source, **options)
    return model_card(converted(source, LLAMA, plan), plan.program, plan.promise, found).decode()


def front(text: str) -> Any:
    return yaml.safe_load(text.split("---")[1])


# --------------------------------------------------------------------------------------------------------------- record


def test_a_record_is_plain_data(source: LoadedModel) -> None:
    recipe, plan = planned(source, passes=(FillBiases(("attention.o",)),), norm="opm-centred")
    table = conversion_record(source, recipe, plan, HASHES, FOUND).table()
    assert json.loads(json.dumps(table)) == table
    assert table["source"] == {"name": "my-orion", "family": "orion", "files": {"model.safetensors": "aa"}}
    assert table["files"] == {"model.safetensors": "bb"}
    assert table["passes"][0]["options"] == {"biases": ["attention.o"]}
    assert table["promise"] == "lossy"


def test_a_record_says_what_both_models_cost(source: LoadedModel) -> None:
    recipe, plan = planned(source)
    table = conversion_record(source, recipe, plan, HASHES, None).table()
    before, after = table["before"], table["after"]
    assert before["parameters"] == source.program.parameters
    assert after["parameters"] == before["parameters"] + sum(step["parameters"] for step in table["passes"])
    assert (before["dtype"], before["bytes"]) == ("float32", 4 * before["parameters"])
    context = source.program.spec.context
    assert before["kv_cache"][str(context)] == context * 3 * 2 * 32 * 4
    assert after["kv_cache"][str(context)] == context * 4 * 2 * 32 * 4, "a layer more"
    assert before["description"][1].startswith("layers 0-2: LayerNorm with bias")
    assert after["description"][1].startswith("layers 0-3: RMSNorm")
    assert table["runtimes"] == [str(note) for note in notes(plan)]
    assert table["runtimes"][0].startswith("llama.cpp f16: ")


def test_the_card_states_the_kv_cache(source: LoadedModel) -> None:
    context = source.program.spec.context
    assert f"KV cache of a sequence: {context * 4 * 2 * 32 * 4 / 1000:.3g} KB at {context} tokens.\n" in card(source)


def test_a_record_holds_both_architectures_as_data(source: LoadedModel) -> None:
    recipe, plan = planned(source)
    table = json.loads(json.dumps(conversion_record(source, recipe, plan, HASHES, None).table()))
    assert from_json(table["before"]["spec"]) == source.program.spec
    assert from_json(table["after"]["spec"]) == plan.program.spec
    assert source.program.spec != plan.program.spec


def test_a_record_does_not_say_where_source_and_output_lay(source: LoadedModel) -> None:
    recipe, plan = planned(source)
    text = json.dumps(conversion_record(source, recipe, plan, HASHES, None).table())
    assert str(source.path) not in text
    assert "somewhere" not in text


def test_measured_gains_are_no_option(source: LoadedModel) -> None:
    gains = {f"layers.{i}.{name}_norm": torch.ones(64) for i in range(3) for name in ("mixer", "mlp")}
    own = LayerNormToRms("calibrated", {**gains, "final_norm": torch.ones(64)})
    recipe, plan = planned(source, passes=(own,))
    step = conversion_record(source, recipe, plan, HASHES, None).table()["passes"][0]
    assert step == {
        "name": "layernorm-to-rmsnorm",
        "options": {"mode": "calibrated"},
        "promise": "lossy",
        "layers": 0,
        "parameters": -7 * 64,
    }


def test_what_is_new_where_nothing_is(tmp_path: Path) -> None:
    source = open_model(write_checkpoint(tmp_path / "llama", "llama"))
    recipe, plan = planned(source)
    table = conversion_record(source, recipe, plan, HASHES, None).table()
    assert (table["passes"], table["new_layers"], table["new_parameters"]) == ([], [], [])


def test_a_verification_as_plain_data_has_its_verdict() -> None:
    table = verification_table(FOUND)
    assert (table["kept"], table["failure"], table["promise"]) == (True, None, "exact")
    assert table["continuations"] == [{"prompt": "Once", "source": " upon", "output": " upon"}]
    broken = verification_table(replace(FOUND, same=replace(PARITY, max_logit_error=math.nan, layers=(math.inf,))))
    assert (broken["kept"], broken["failure"]) == (False, "the output's logits are not finite")
    assert (broken["same"]["max_logit_error"], broken["same"]["layers"]) == (None, [None])
    json.dumps(broken, allow_nan=False)


# ----------------------------------------------------------------------------------------------------------------- card


def test_a_card_says_what_was_done_and_measured(source: LoadedModel) -> None:
    text = card(source)
    assert "# my-orion converted to llama\n" in text
    assert "It has 4 layers, width 64 and 128 positions" in text
    assert "| `affine-tail` | exact | an added layer holds the bias of the logits as a constant coordinate |" in text
    assert "64 tokens of my.txt" in text
    assert "| this checkpoint, in float32 | 1e-05 | 1e-06 | 0 | 98.44 % |" in text
    assert "Perplexity of that text in the source: 12.5000." in text
    headline = (
        "Largest logit difference 1e-05 (64 tokens, float32); the source's own rounding is 1e-05; "
        "in float64 the difference is 1e-12."
    )
    assert f"**{headline}** Promise exact: kept." in text
    assert "\n\n\n" not in text


def test_a_card_s_front_matter_is_yaml(source: LoadedModel) -> None:
    assert front(card(source)) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["kept"],
    }


def test_a_card_of_a_broken_promise_states_it(source: LoadedModel) -> None:
    text = card(source, replace(FOUND, same=replace(PARITY, kl=math.nan)))
    assert "Promise exact: broken: the output's logits are not finite" in text


def test_a_card_without_a_float64_proof(source: LoadedModel) -> None:
    assert "the rewritten model, in float64" in card(source)
    assert "the rewritten model, in float64" not in card(source, replace(FOUND, proof=None))


def test_a_card_says_which_rows_are_equal(source: LoadedModel) -> None:
    compared = "All rows are compared with the source in float64."
    assert f"{compared} The first two rows are equal.\n" in card(source)
    assert f"{compared}\n" in card(source, replace(FOUND, floor=replace(PARITY, kl=1.0)))


def test_a_card_of_a_copy(tmp_path: Path) -> None:
    text = card(open_model(write_checkpoint(tmp_path / "llama", "llama")), None)
    assert "| none | exact | the architecture was already expressible |" in text
    assert "Nothing: verification was left out." in text


def test_a_card_carries_the_licence(tmp_path: Path) -> None:
    source = open_model(write_checkpoint(tmp_path / "orion", "orion"))
    assert "which its own card does not state" in card(source)
    assert RESTRICTED["orion"] in card(source)
    (source.path / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    (source.path / "LICENSE").write_text("terms", encoding="utf-8")
    text = card(source)
    assert "keep the licence of their source: apache-2.0." in text
    assert "Its licence files are here: LICENSE." in text
    assert front(text)["license"] == "apache-2.0"
    assert RESTRICTED["orion"] in text, "a card that states a licence may be wrong about the weights"


def test_only_orion_s_terms_are_orion_s(tmp_path: Path) -> None:
    assert "Orion-14B" not in card(open_model(write_checkpoint(tmp_path / "qwen2", "qwen2")))


def test_a_card_that_is_written_again_has_the_summary_of_every_pass(source: LoadedModel) -> None:
    done = tuple(PassRecord(name=name, promise=Promise.LOSSY) for name in (*SUMMARIES, "of-another-version"))
    record = Record(source=SourceRecord(name="a", family="orion"), recipe=RecipeRecord(to="llama"), passes=done)
    steps = origin_of(source, record).steps
    assert steps is not None
    assert {step.name: step.summary for step in steps} == {**SUMMARIES, "of-another-version": ""}

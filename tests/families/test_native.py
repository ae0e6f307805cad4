"""The family of our own class: its config is the spec, and its tensors are the slots."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.families.native import AUTO_MAP
from support.contract import StockContract
from support.specs import specs
from support.tiny import KEPT_LAYER, KEPT_SPEC, TINY

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program
    from kept.ir.spec import Spec

KEPT = FAMILIES["kept"]


class TestKept(StockContract):
    name = "kept"
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")
    numbers = ()
    flags = ("tie_word_embeddings",)
    words = ()
    required = ()
    becomes_llama = "a sliding window of 7 is active"

    def test_what_it_cannot_say_is_a_violation(self, program: Program) -> None:
        """Any spec can be said: an epsilon of one norm, which no stock class can say, too."""
        spec = replace(program.spec, final_norm=replace(program.spec.final_norm, eps=0.125))
        assert self.family.violations(spec) == []
        assert self.family.read_config(self.family.write_config(spec, "F32")) == spec

    def test_written_config_has_both_forms(self, program: Program) -> None:
        written = self.family.write_config(program.spec, "BF16")
        assert written["torch_dtype"] == written["dtype"] == "bfloat16"

    def test_tensor_names_are_the_slots(self, program: Program, checkpoint: Checkpoint) -> None:
        assert {*checkpoint.tensors} == {*program.weights}


def layer(**changes: object) -> dict[str, Any]:
    """A layer of the tiny spec with changes in its attention."""
    return {**KEPT_LAYER, "mixer": {**KEPT_LAYER["mixer"], **changes}}


ROPE = KEPT_LAYER["mixer"]["rope"]


@given(spec=specs())
def test_any_spec_is_said_without_violations(spec: Spec) -> None:
    assert KEPT.violations(spec) == []
    written = json.loads(json.dumps(KEPT.write_config(spec, "F32")))
    assert KEPT.read_config(written) == spec
    assert KEPT.write_config(KEPT.read_config(written), "F32") == KEPT.write_config(spec, "F32")


def test_centred_is_a_fact_of_weights_that_training_changes() -> None:
    spec = KEPT.read_config({**TINY["kept"], "spec": {**KEPT_SPEC, "centred": True}})
    assert not spec.centred


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": None}, r"^config\.json: spec: spec is None, it must be an object"),
        ({"spec": {**KEPT_SPEC, "width": -1}}, r"spec: embedding\.weight would have shape \[97, -1\]"),
        ({"spec": {**KEPT_SPEC, "width": 2**40}}, r"spec: width is 1099511627776, it must be between"),
        ({"spec": {**KEPT_SPEC, "layers": [layer(kv_heads=3)]}}, r"kv_heads is 3, it must be a divisor of the 4"),
        ({"spec": {**KEPT_SPEC, "layers": [layer(rope={**ROPE, "dims": 18})]}}, r"dims is 18, it must be even, and at"),
        ({"spec": {**KEPT_SPEC, "extra": 1}}, r"spec: spec\.extra is not a field"),
        ({"hidden_size": 65}, r"^config\.json: hidden_size is 65, it must be 64, as the spec says"),
        ({"auto_map": {"AutoModelForCausalLM": "org/other--modeling_kept.KeptForCausalLM"}}, "auto_map"),
        ({"auto_map": {**AUTO_MAP, "AutoTokenizer": "tokenization.Tokenizer"}}, r"AutoTokenizer.*it must be absent"),
        ({"auto_map": {"AutoConfig": "other.KeptConfig"}}, r"it must be configuration_kept\.KeptConfig"),
    ],
)
def test_what_is_refused(changes: dict[str, object], message: str) -> None:
    KEPT.read_config(TINY["kept"])
    with pytest.raises(CheckpointError, match=message):
        KEPT.read_config({**TINY["kept"], **changes})

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kept.errors import CheckpointError
from kept.families.baichuan import BAICHUAN
from support.orphans import OrphanContract
from support.tiny import TINY

if TYPE_CHECKING:
    from kept.checkpoint.reader import Checkpoint
    from kept.ir.program import Program


class TestBaichuan(OrphanContract):
    name = "baichuan"
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    )
    numbers = ("rms_norm_eps",)
    flags = ("tie_word_embeddings",)
    words = ("hidden_act",)
    defaults: ClassVar[dict[str, Any]] = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    second: ClassVar[bool] = False

    def test_written_config_has_both_forms(self, program: Program) -> None:
        """The dtype has two forms; the rotation is not written."""
        written = self.family.write_config(program.spec, "BF16")
        assert written["torch_dtype"] == written["dtype"] == "bfloat16"
        assert not {"rope_theta", "rope_scaling", "rope_parameters"} & set(written)

    def test_the_generation(self, program: Program) -> None:
        written = self.family.write_config(program.spec, "F32")
        assert program.spec.head.normalised is self.second
        assert ("z_loss_weight" in written) is self.second
        assert written["architectures"] == ["BaichuanForCausalLM" if self.second else "BaiChuanForCausalLM"]

    def test_the_rotation_is_in_the_code(self, checkpoint: Checkpoint) -> None:
        """Baichuan's code ignores the rotation in a config, so another one is refused."""
        for said in (
            {"rope_theta": 5e5},
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_theta": 5e5}},
        ):
            with pytest.raises(CheckpointError, match="this family's own code always uses RoPE with theta 10000"):
                self.family.read_config({**checkpoint.config, **said})
        for said in ({"rope_theta": 10_000}, {"rope_scaling": None}, {"rope_parameters": {"rope_type": "default"}}):  # type: ignore[assignment]
            assert self.family.read_config({**checkpoint.config, **said}) == self.family.read_config(checkpoint.config)


class TestBaichuan2(TestBaichuan):
    """Rows of the head are divided by their length."""

    overrides: ClassVar[dict[str, Any]] = {"z_loss_weight": 0}
    second = True


def test_a_tied_head_of_the_second_generation_is_refused() -> None:
    """Its class divides the rows in place at the first pass, so that later passes look up another embedding."""
    tied = {**TINY["baichuan"], "tie_word_embeddings": True}
    assert BAICHUAN.read_config(tied).head.tied
    with pytest.raises(
        CheckpointError, match=r"^config\.json: tie_word_embeddings is True, it must be false: Baichuan 2"
    ):
        BAICHUAN.read_config({**tied, "z_loss_weight": 0})


def test_the_second_generation_is_known_by_its_vocabulary_too() -> None:
    released = {**TINY["baichuan"], "vocab_size": 125696}
    assert BAICHUAN.read_config(released).head.normalised
    assert not BAICHUAN.read_config({**released, "vocab_size": 64000}).head.normalised
    assert BAICHUAN.read_config({**released, "vocab_size": 125700, "z_loss_weight": 0}).head.normalised


@pytest.mark.parametrize(
    "changes", [{"max_position_embeddings": None, "model_max_length": 4096}, {"hidden_size": 5120}]
)
def test_the_13b_models_are_refused_for_alibi(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"^config\.json: .*a Baichuan 13B, with ALiBi"):
        BAICHUAN.read_config({**TINY["baichuan"], **changes})

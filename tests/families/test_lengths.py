"""The domain of a promise: classes that differ past some length, and passes with limits of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kept.commands.convert import convert
from kept.commands.plan import plan
from kept.commands.verify import verify
from kept.families import FAMILIES
from kept.families.lengths import domain
from kept.families.llama import LLAMA
from kept.ir.spec import Dynamic, LongRope, Rope
from kept.output.lineage import lineage
from kept.output.record import read_record
from kept.passes.expand_vocabulary import ExpandVocabulary, Growth
from support.models import write_checkpoint
from support.pass_helpers import unread
from support.specs import attention_of, with_mixer
from support.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.spec import Scaling

LONG = LongRope((1.0,) * 8, (2.0,) * 8, 32, 4.0)
DYNAMIC = Dynamic(2.0, 128)
THETA = "for every sequence up to and including the first one longer than 128 tokens: after it "
CACHED = "for the first forward pass, and for generation of up to 128 tokens: beyond them "


def between(source: str, target: str, scaling: Scaling | None) -> tuple[str, ...]:
    """Return the domain of a promise between tiny models of two families with the same RoPE scaling."""
    spec = FAMILIES[source].read_config(TINY[source])
    spec = with_mixer(spec, rope=Rope(1e4, attention_of(spec.layers[0]).head_dim, scaling=scaling))
    return domain(FAMILIES[source], spec, FAMILIES[target], spec)


def test_a_cache_that_one_class_recomputes() -> None:
    (found,) = between("phi3", "llama", LONG)
    assert found == (
        "for any single forward pass, and for generation that does not cross 32 tokens: on crossing Phi3ForCausalLM "
        "recomputes its KV cache, LlamaForCausalLM keeps the original rotation of cached keys"
    )
    assert between("phi3", "phi3", LONG) == between("llama", "mistral", LONG) == ()
    assert between("phi3", "llama", None) == ()
    same = LongRope((2.0,) * 8, (2.0,) * 8, 32, 4.0)
    assert between("phi3", "llama", same) == between("minicpm", "llama", same) == ()


@pytest.mark.parametrize(
    ("source", "where", "does"),
    [
        *(
            (name, THETA, "keeps the increased theta permanently")
            for name in ("aquila", "deci", "internlm2", "minicpm", "orion")
        ),
        ("internlm", CACHED, "rotates all cached keys again at each token"),
        ("xverse", THETA, "computes theta from each sequence's length alone"),
    ],
)
def test_theta_that_grows_by_another_rule(source: str, where: str, does: str) -> None:
    found, *others = between(source, "llama", DYNAMIC)
    assert found.startswith(f"{where}{FAMILIES[source].architecture} {does}, LlamaForCausalLM restores the configured")
    assert between(source, source, DYNAMIC) == ()
    assert between(source, "llama", None) == (*others,)
    assert len(others) == (source == "aquila")


def test_a_table_of_angles_that_stays() -> None:
    (found,) = between("minicpm", "llama", replace(LONG, original_max_position_embeddings=128))
    assert found == f"{THETA}MiniCPMForCausalLM uses LongRoPE's long_factor permanently, LlamaForCausalLM does not"


def test_scores_that_one_class_clips() -> None:
    (found,) = between("aquila", "llama", None)
    assert found == (
        "for attention scores up to ±1,024: beyond them AquilaForCausalLM clips at ±1,024 and LlamaForCausalLM does "
        "not clip"
    )
    assert between("aquila", "aquila", None) == ()


def test_a_rule_that_forward_passes_show() -> None:
    (found,) = between("qwen", "llama", None)
    assert found.startswith("for sequences of up to 128 tokens: beyond them QWenLMHeadModel increases theta")
    assert found.endswith(", LlamaForCausalLM does not")
    assert between("qwen", "qwen", None) == ()


def planned(directory: Path, family: str, keys: dict[str, Any], **options: Any) -> tuple[str, ...]:
    """Return the domain of the plan that converts a tiny checkpoint to Llama."""
    return plan(write_checkpoint(directory, family, **keys), **options).domain


def test_a_context_that_is_cut_and_a_window_that_goes(tmp_path: Path) -> None:
    cut = "for sequences of up to 16 tokens (the requested context)"
    window = "for sequences of up to 128 tokens (the sliding window)"
    assert planned(tmp_path / "a", "mistral", {"sliding_window": 16}, context=16) == (cut,), "one line for one limit"
    assert planned(tmp_path / "e", "mistral", {"sliding_window": 128}) == (window,)
    assert planned(tmp_path / "d", "mistral", {"sliding_window": 20}, context=16) == (cut,)
    assert planned(tmp_path / "b", "llama", {}, context=16) == (cut,)
    assert planned(tmp_path / "c", "llama", {}) == planned(tmp_path / "b", "llama", {}, context=128) == ()


def test_a_length_past_a_context_that_is_cut_is_not_told(tmp_path: Path) -> None:
    """Qwen scales queries past 128 tokens, but the context is cut to 64."""
    (found,) = planned(tmp_path, "qwen", {}, context=64)
    assert found == "for sequences of up to 64 tokens (the requested context)"


def test_a_dtype_that_cannot_hold_a_pass_s_constants(tmp_path: Path) -> None:
    (found,) = planned(tmp_path, "orion", {})
    assert found.startswith("in bfloat16, float32 and float64: float16 ")


def test_tokens_that_the_source_does_not_have() -> None:
    spec = LLAMA.read_config(TINY["llama"])
    grown = ExpandVocabulary("", growth=Growth(90, ((1,), (2, 3))))
    assert grown.domain(unread(spec, "F32")) == "for text without new tokens, that is, token ids below 90"


def test_record_card_and_verification_say_where_the_promise_holds(tmp_path: Path) -> None:
    keys = {
        "original_max_position_embeddings": 32,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    }
    source = write_checkpoint(tmp_path / "source", "phi3", **keys)  # type: ignore[arg-type]
    found = convert(source, tmp_path / "out", verify_tokens=16)
    (where,) = found.plan.domain
    assert "for generation that does not cross 32 tokens" in where
    record = read_record(tmp_path / "out")
    assert record is not None
    assert record.verification is not None
    assert record.domain == record.verification.domain == (where,)
    assert f"It holds:\n\n- {where}\n" in (tmp_path / "out" / "README.md").read_text()
    assert verify(source, tmp_path / "out", tokens=16).domain == (where,)
    (done,) = lineage(record)
    assert str(done).endswith(f"promise exact, which holds {where}")

    cut = "for sequences of up to 64 tokens (the requested context)"
    assert convert(tmp_path / "out", tmp_path / "again", context=64, verify_tokens=16).plan.domain == (cut,)
    assert verify(source, tmp_path / "again", tokens=16).domain == (where, cut)
    again = read_record(tmp_path / "again")
    assert again is not None
    assert [one.domain for one in lineage(again)] == [(where,), (cut,)]

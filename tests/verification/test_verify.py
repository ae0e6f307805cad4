"""The verdict: a good conversion passes, one wrong weight does not, and each promise has its own gate."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import kept
from kept.errors import CheckpointError, InputError
from kept.ir.promise import Promise
from kept.nn.state import KVCache
from kept.verification import pair as pair_measurement
from kept.verification import verify as verifying
from kept.verification.pair import DOUBLE_TOKENS, FEW_DOUBLE_TOKENS, PairParity
from kept.verification.parity import Parity
from kept.verification.text import SAMPLE
from kept.verification.verify import APPROXIMATE_KL, FLOOR, PROOF, fits, free_memory, judge
from support.logits import program_of
from support.models import write_checkpoint
from support.stored import change_json, read_json, write_readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor


class Pair:
    """A source with a tokenizer, and its conversion."""

    def __init__(self, directory: Path, family: str) -> None:
        self.source = write_readable(directory / family, family)
        self.out = kept.convert(self.source, directory / f"{family}-llama", verify_tokens=0).path

    def copy(self, target: Path) -> Path:
        return shutil.copytree(self.out, target)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), "orion")


def edit(directory: Path, name: str, change: Callable[[Tensor], Tensor]) -> Path:
    """Change one tensor of an output."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, file, metadata={"format": "pt"})
    return directory


def permuted(weight: Tensor) -> Tensor:
    return weight.roll(1, 0)


# -------------------------------------------------------------------------------------------------- a conversion


def test_a_good_conversion_passes(pair: Pair) -> None:
    found = kept.verify(pair.source, pair.out, tokens=256)
    assert found.failure is None
    assert found.promise is Promise.EXACT
    assert found.dtype == "float32"
    assert found.text == SAMPLE
    assert found.proof is not None
    assert found.proof.max_logit_error < 1e-9 * found.proof.logit_std
    assert found.output is not None
    assert found.floor is not None
    assert found.output.mean_logit_error < FLOOR * found.floor.mean_logit_error
    assert found.output.tokens == found.floor.tokens == found.proof.tokens == DOUBLE_TOKENS
    assert found.same is not None
    assert found.same.tokens == 256
    assert 0 < found.same.max_logit_error < 1e-3


def test_a_large_model_is_proved_on_fewer_tokens(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_measurement, "LARGE", 1)
    found = kept.verify(pair.source, pair.out, tokens=256)
    assert found.failure is None
    assert found.proof is not None
    assert found.proof.tokens == FEW_DOUBLE_TOKENS
    assert found.same is not None
    assert found.same.tokens == 256
    assert not found.identical


def test_continuations_are_those_of_both_models(pair: Pair) -> None:
    found = kept.verify(pair.source, pair.out, tokens=16)
    assert len(found.continuations) == 3
    assert found.notes == ()
    for continuation in found.continuations:
        assert continuation.source == continuation.output
        assert continuation.source


def test_streamed_leaves_the_continuations_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "side_by_side", lambda *_: pytest.fail("both models were loaded"))
    found = kept.verify(pair.source, pair.out, tokens=16, streamed=True)
    assert found.continuations == ()
    assert "were left out" in found.notes[0]
    assert found.failure is None


def test_so_does_a_machine_without_the_memory(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "free_memory", lambda: 1000)
    found = kept.verify(pair.source, pair.out, tokens=16)
    assert found.continuations == ()
    assert "need both models in memory" in found.notes[0]


def test_the_user_s_text_is_measured(pair: Pair, tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text("seven ships, and one of them was late", encoding="utf-8")
    found = kept.verify(pair.source, pair.out, text=text, tokens=1000)
    assert found.text == str(text)
    assert found.same is not None
    assert found.same.tokens == 37


# --------------------------------------------------------------------------------------------- negative controls

EVERY_KIND = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.self_attn.k_proj.bias",
    "model.layers.2.mlp.down_proj.weight",
    "model.layers.2.post_attention_layernorm.weight",
    "model.layers.3.mlp.up_proj.weight",
    "lm_head.weight",
]


@pytest.mark.parametrize("name", EVERY_KIND)
def test_one_permuted_weight(pair: Pair, tmp_path: Path, name: str) -> None:
    broken = edit(pair.copy(tmp_path / "out"), name, permuted)
    failure = kept.verify(pair.source, broken, tokens=256).failure
    assert failure is not None
    assert "the mean logit error is" in failure


def test_a_change_too_small_to_measure_is_found_by_the_record(pair: Pair, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    touched = edit(pair.copy(tmp_path / "out"), name, lambda w: torch.nextafter(w, 2 * w))
    found = kept.verify(pair.source, touched, tokens=256, streamed=True)
    assert found.failure == "model.safetensors: changed since the conversion wrote it"
    assert found.altered == ("model.safetensors",)


def test_what_has_no_record_or_little_text_states_it(pair: Pair, tmp_path: Path) -> None:
    bare = pair.copy(tmp_path / "out")
    (bare / "kept.json").unlink()
    found = kept.verify(pair.source, bare, tokens=100_000, streamed=True)
    assert found.altered == ()
    assert any("has no kept.json" in note for note in found.notes)
    assert any("of 100000 tokens" in note for note in found.notes)


def test_a_weight_that_is_nan(pair: Pair, tmp_path: Path) -> None:
    broken = edit(pair.copy(tmp_path / "out"), "model.layers.1.mlp.up_proj.weight", lambda w: w * math.nan)
    assert kept.verify(pair.source, broken, tokens=32).failure == "the output's logits are not finite"


def test_the_file_is_judged_not_the_plan(pair: Pair, tmp_path: Path) -> None:
    broken = edit(pair.copy(tmp_path / "out"), "lm_head.weight", lambda w: 1.001 * w)
    found = kept.verify(pair.source, broken, tokens=256)
    assert found.proof is not None
    assert found.proof.max_logit_error < 1e-9 * found.proof.logit_std
    assert found.failure is not None


def test_a_changed_source_is_detected(pair: Pair, tmp_path: Path) -> None:
    other = write_readable(tmp_path / "orion", "orion", seed=1)
    assert kept.verify(other, pair.out, tokens=32).failure is not None


def test_a_config_that_states_something_else(pair: Pair, tmp_path: Path) -> None:
    out = pair.copy(tmp_path / "out")
    change_json(out / "config.json", rms_norm_eps=1e-5)
    assert kept.verify(pair.source, out, tokens=64).failure is not None


# ------------------------------------------------------------------------------------------------- pairs of others


def test_a_pair_without_a_record_is_held_to_the_noise_floor(pair: Pair, tmp_path: Path) -> None:
    out = pair.copy(tmp_path / "out")
    (out / "kept.json").unlink()
    found = kept.verify(pair.source, out, tokens=128)
    assert (found.promise, found.proof, found.failure) == (Promise.EXACT, None, None)
    edit(out, "lm_head.weight", lambda w: 1.001 * w)
    failure = kept.verify(pair.source, out, tokens=128).failure
    assert failure is not None
    assert "times the noise" in failure


def test_a_foreign_rounding_is_within_the_noise(tmp_path: Path) -> None:
    wide = write_checkpoint(tmp_path / "float32", "llama")
    narrow = write_checkpoint(tmp_path / "bfloat16", "llama", dtype=torch.bfloat16)
    found = kept.verify(wide, narrow, tokens=256)
    assert found.dtype == "bfloat16"
    assert found.failure is None
    assert found.identical, "the same numbers, rounded"


def test_a_foreign_fine_tune_is_not(tmp_path: Path) -> None:
    one, other = (write_checkpoint(tmp_path / str(seed), "llama", seed=seed) for seed in (0, 1))
    assert kept.verify(one, other, tokens=32).failure is not None


def test_a_window_beyond_the_tokens_of_float64_shows(tmp_path: Path) -> None:
    """The first 64 tokens are run in float64, and this window is longer."""
    source = write_checkpoint(tmp_path / "source", "mistral", dtype=torch.bfloat16, sliding_window=None)
    out = shutil.copytree(source, tmp_path / "out")
    change_json(out / "config.json", sliding_window=DOUBLE_TOKENS + 4)
    found = kept.verify(source, out, tokens=120)
    assert found.output is not None
    assert found.output == found.floor, "nothing shows in the first tokens"
    assert found.failure is not None
    assert "over 120 tokens the mean logit difference is" in found.failure


def test_other_vocabularies_are_no_pair(pair: Pair, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "llama", "llama")
    with pytest.raises(InputError, match=r"llama: has vocabulary 97, .* has 320: not a conversion of it"):
        kept.verify(pair.source, other)


@pytest.mark.parametrize(
    "changes", [{"promise": "maybe"}, {"promise": ["exact"]}, {"recipe": 3}, {"recipe": None}], ids=str
)
def test_a_damaged_record_is_named(pair: Pair, tmp_path: Path, changes: dict[str, Any]) -> None:
    out = pair.copy(tmp_path / "out")
    change_json(out / "kept.json", **changes)
    with pytest.raises(CheckpointError, match=r"kept\.json: (is not a record|the record is not)"):
        kept.verify(pair.source, out, tokens=16)


def test_a_record_of_an_unknown_recipe_is_named(pair: Pair, tmp_path: Path) -> None:
    out = pair.copy(tmp_path / "out")
    change_json(out / "kept.json", recipe={"to": "gpt5"})
    with pytest.raises(CheckpointError, match=r"kept.json: is not a record of a conversion .to: is 'gpt5'"):
        kept.verify(pair.source, out, tokens=16)


def test_a_recipe_with_passes_is_planned_again(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion")
    passes: list[dict[str, Any]] = [{"name": "limit-context", "tokens": 64}, {"name": "centre"}]
    out = kept.convert(source, tmp_path / "out", passes=passes, dtype="float64", verify_tokens=0).path
    assert read_json(out / "kept.json")["recipe"]["passes"] == passes
    found = kept.verify(source, out, tokens=64)
    assert found.failure is None
    assert found.proof is not None


@pytest.mark.parametrize("tokens", [-5, 0, 1])
def test_one_token_measures_nothing(pair: Pair, tokens: int) -> None:
    with pytest.raises(InputError, match="at least 2"):
        kept.verify(pair.source, pair.out, tokens=tokens, streamed=True)


# -------------------------------------------------------------------------------------------------------- the gates

PERFECT = Parity(100, 2.0, 0.0, 0.0, 0.0, 1.0, 5.0, 5.0, ())
NOISE = replace(PERFECT, max_logit_error=0.1, mean_logit_error=0.01, kl=1e-5)


def judged(promise: Promise, proof: Parity | None = PERFECT, output: Parity = NOISE) -> str | None:
    return judge(promise, PairParity(copied=False, same=output, proof=proof, output=output, floor=NOISE))


def test_exact_is_the_noise_of_the_dtype_and_the_map_in_float64() -> None:
    assert judged(Promise.EXACT) is None
    assert judged(Promise.EXACT, None) is None


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"mean_logit_error": 0.01 * FLOOR * 1.01}, r"the mean logit error is 1\.5\d times the noise of 0\.01"),
        ({"kl": 1e-5 * FLOOR**2 * 1.01}, "KL is 2.27e-05 nats per token, the dtype's own noise is 1e-05"),
        ({"kl": math.nan}, "not finite"),
        ({"kl": math.inf}, "not finite"),
        ({"max_logit_error": math.nan}, "not finite"),
        ({"max_logit_error": math.inf}, "not finite"),
        ({"mean_logit_error": math.nan}, "the mean logit error is nan"),
    ],
)
def test_an_exact_output_that_is_not(broken: dict[str, float], words: str) -> None:
    assert re.search(words, judged(Promise.EXACT, output=replace(NOISE, **broken)) or "")  # type: ignore[arg-type]


def test_noise_within_the_bounds_passes() -> None:
    near = replace(NOISE, mean_logit_error=0.01 * FLOOR * 0.99, kl=1e-5 * FLOOR**2 * 0.99, max_logit_error=9.0)
    assert judged(Promise.EXACT, output=near) is None


@pytest.mark.parametrize(
    ("error", "spread", "broken"),
    [
        (0.99 * PROOF, 0.1, False),
        (1.01 * PROOF, 0.1, True),
        (1.99 * PROOF, 2.0, False),
        (2.01 * PROOF, 2.0, True),
        (math.nan, 2.0, True),
    ],
)
def test_a_map_that_is_not_exact_in_float64(error: float, spread: float, *, broken: bool) -> None:
    failure = judged(Promise.EXACT, replace(PERFECT, max_logit_error=error, logit_std=spread))
    assert (failure is not None and "the map is not exact" in failure) is broken


def test_an_exact_copy_has_no_noise_to_hide_in() -> None:
    perfect = PairParity(copied=False, same=PERFECT, proof=PERFECT, output=PERFECT, floor=PERFECT)
    assert judge(Promise.EXACT, perfect) is None
    near = replace(PERFECT, mean_logit_error=2 * PROOF)
    assert judge(Promise.EXACT, replace(perfect, output=near)) is not None


def test_approximate_is_a_bound_on_the_divergence() -> None:
    near, far = (replace(NOISE, kl=factor * APPROXIMATE_KL, mean_logit_error=9.0) for factor in (0.99, 1.01))
    assert judged(Promise.APPROXIMATE, None, near) is None
    assert judged(Promise.APPROXIMATE, None, far) == "KL is 0.101 nats per token, above 0.1"


def test_a_lossy_conversion_fails_only_if_the_logits_are_nan() -> None:
    far = replace(NOISE, kl=5.0, mean_logit_error=9.0)
    assert judged(Promise.LOSSY, None, far) is None
    assert judged(Promise.LOSSY, None, replace(far, kl=math.nan)) == "the output's logits are not finite"


# ------------------------------------------------------------------------------------------------------------ memory


def test_what_fits_is_half_of_the_free_memory(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(pair.source)
    needed = 2 * 4 * program.parameters
    monkeypatch.setattr(verifying, "free_memory", lambda: 2 * needed + 2)
    assert fits(program, program)
    monkeypatch.setattr(verifying, "free_memory", lambda: 2 * needed)
    assert not fits(program, program)


def test_free_memory_is_a_plausible_number() -> None:
    assert 10**7 < free_memory() < 10**15


def test_decoding_is_compared_with_a_whole_pass(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    found = kept.verify(pair.source, pair.out, tokens=16)
    assert found.decoding is not None
    assert 0 <= found.decoding < 1e-4
    append = KVCache.append

    def swapped(self: KVCache, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        seen, values = append(self, keys, values)
        return seen.roll(1, 2), values

    monkeypatch.setattr(KVCache, "append", swapped)
    failure = kept.verify(pair.source, pair.out, tokens=16).failure
    assert failure is not None
    assert failure.startswith("decoding differs from a whole pass by ")

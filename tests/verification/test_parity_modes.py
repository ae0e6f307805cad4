"""The figures of the four norm modes on a really trained Orion, in three domains (benchmarks/parity_modes.py)."""

from __future__ import annotations

import parity_modes
import pytest

from support.shared_data import DATA, needs_data

pytestmark = pytest.mark.slow

Results = dict[str, dict[str, dict[str, float]]]


@pytest.fixture(scope="module")
def results() -> Results:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parity_modes, "ROWS", 2)
        return parity_modes.run(DATA / "checkpoints" / "orion-9m", DATA / "corpora")


PUBLISHED = {
    "opm": {"English": 0.40, "Python": 0.29, "stories": 0.63},
    "exact, final bias dropped": {"English": 0.015, "Python": 0.009, "stories": 0.010},
}
"""KL in nats per token, on other held-out text of the same domains."""


@needs_data
@pytest.mark.parametrize("mode", PUBLISHED)
def test_lossy_modes_lose_what_is_known(results: Results, mode: str) -> None:
    for domain, kl in PUBLISHED[mode].items():
        assert kl / 1.8 < results[mode][domain]["kl"] < kl * 1.8, "other text of the domain, not another result"


@needs_data
def test_the_tail_is_at_the_noise_of_float32(results: Results) -> None:
    for domain, found in results["exact, affine tail"].items():
        source = results["source in float32"][domain]
        assert found["kl"] < 2e-12
        assert found["kl"] < 2.25 * source["kl"]
        assert round(found["cross_entropy"], 4) == pytest.approx(round(source["cross_entropy"], 4), abs=1.01e-4)


@needs_data
def test_the_order_of_the_modes(results: Results) -> None:
    for domain in ("English", "Python", "stories"):
        kl = {mode: row[domain]["kl"] for mode, row in results.items()}
        assert kl["opm"] > kl["calibrated on English"] > 10 * kl["exact, final bias dropped"]
        assert kl["exact, final bias dropped"] > 1e6 * kl["exact, affine tail"]

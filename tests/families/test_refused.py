from __future__ import annotations

import pytest

from kept.errors import CheckpointError
from kept.families import FAMILIES, family_of
from kept.families.refused import REFUSED


def test_no_family_is_both_read_and_refused() -> None:
    assert not FAMILIES.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_in_one_line_with_a_way_out(name: str) -> None:
    with pytest.raises(CheckpointError) as error:
        family_of({"model_type": name})
    message = str(error.value)
    assert message.startswith(f"config.json: model_type {name!r} ")
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bloom", "ALiBi"),
        ("jais", "ALiBi"),
        ("mixtral", "mixture of experts"),
        ("chatglm", "both directions"),
        ("apertus", "xIELU"),
        ("bitnet", "ternary"),
        ("cohere2", "take Command R"),
        ("exaone4", "take EXAONE 3"),
        ("glm4", "norms before and behind"),
        ("gptj", "parallel residuals"),
        ("hunyuan_v1_dense", "after their rotation"),
        ("nanochat", "caps its logits"),
        ("olmo3", "take OLMo 2"),
    ],
)
def test_reasons(name: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        family_of({"model_type": name})

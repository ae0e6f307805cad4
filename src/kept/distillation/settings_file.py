"""A healing run as TOML: the settings by their names.

```toml
student = "out/plain-llama"
teacher = "path/to/orion"
data = ["english=corpus/en", "python=corpus/py"]
mixture = "english=0.7,python=0.3"
train = "norms"
tokens = "2M"             # or 2_000_000
out = "out/healed"
```

One key more, `loss`, says what is minimised where no weight does: `loss = "ce"` is `ce = 1.0` without the KL.
"""

from __future__ import annotations

import re
from dataclasses import fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from kept.distillation.settings import LOSSES, HealSettings
from kept.errors import RecipeError
from kept.toml_file import check_type, load, merged, one_of, texts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RENAMED = {
    "batch": "batch_size",
    "length": "sequence_length",
    "accumulate": "gradient_accumulation",
    "rate": "learning_rate",
    "schedule": "lr_schedule",
    "decay": "weight_decay",
    "clip": "max_grad_norm",
    "reverse": "reverse_kl",
    "checkpointing": "gradient_checkpointing",
    "measure_every": "eval_every",
    "beta": "jsd_beta",
    "field": "text_field",
}
"""Former names of settings."""

SIZES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
"""What a number of tokens may end with."""


def load_settings(path: str | Path, **overrides: Any) -> HealSettings:  # noqa: ANN401 - values of any key
    """Read a recipe file; `overrides` (None: not given) win over it. Raises RecipeError naming file, line and key."""
    return load(path, settings_from, overrides)


def settings_from(table: Mapping[str, Any], **overrides: Any) -> HealSettings:  # noqa: ANN401 - values of any key
    """Settings from the keys of a TOML table. Raises RecipeError for an unknown key, a wrong type or a missing one."""
    former = next((key for key in table if key in RENAMED), None)
    if former is not None:
        raise RecipeError(f"{former}: is now {RENAMED[former]}")
    hints = {f.name: str(f.type) for f in fields(HealSettings)}
    given: dict[str, Any] = {
        key: _value(key, value, hints[key])
        for key, value in weighed(merged(table, overrides, {*hints, "loss"})).items()
    }
    missing = next((key for key in ("student", "out") if key not in given), None)
    if missing is not None:
        raise RecipeError(f"{missing}: is missing; say where it is")
    return HealSettings(**given)


def weighed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with weights for `loss`, whose own is 1; the others are 0 where they are not given.

    So a run's settings, and what a record keeps of them, are weights alone. Raises RecipeError for any other word.
    """
    rest = dict(given)
    loss = rest.pop("loss", "kl")
    check_type("loss", loss, "str")
    one_of("loss", loss, LOSSES)
    return rest if loss == "kl" else {"kl": 0.0, loss: 1.0, **rest}


def _value(key: str, value: object, hint: str) -> object:
    if hint == "Count":
        return count(key, value)
    if hint.startswith("tuple"):
        return texts(key, [value] if isinstance(value, str) else value)
    check_type(key, value, hint)
    return value


def count(key: str, value: object) -> int:
    """A number as it is written: 2000000, 2M, 500K, 1.5B. Raises RecipeError where it is none, or no whole one."""
    written = "" if isinstance(value, bool) else str(value).strip().replace("_", "").upper()
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMB]?)", written, re.ASCII)
    number = Fraction(match[1]) * SIZES[match[2]] if match is not None else Fraction(1, 2)
    if number.denominator != 1:
        raise RecipeError(f"{key}: is {value!r}, write it as 2M, 500K or 2000000")
    return int(number)

"""`loss`, a key of recipes and an option of `kept heal`: the name of the main loss, short for weights of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from kept.settings_model import check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping

Loss = Literal["kl", "reverse_kl", "jsd", "ce"]

LOSS_HELP = "Main loss: its weight is 1, and those of the others are 0 unless they are given. ce needs no teacher."


def add_loss(schema: dict[str, Any]) -> None:
    """Add the key `loss` to the JSON schema."""
    schema["properties"]["loss"] = {"enum": [*get_args(Loss)], "default": "kl", "description": LOSS_HELP}


def loss_weights(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same settings with weights in place of `loss`. Raises RecipeError if it is not a loss."""
    rest = dict(values)
    loss = rest.pop("loss", "kl")
    check_choice("loss", loss, get_args(Loss))
    return rest if loss == "kl" else {"kl": 0.0, loss: 1.0, **rest}

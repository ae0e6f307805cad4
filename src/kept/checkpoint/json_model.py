"""Typed JSON files: pydantic models from which a file is written, read and validated."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from kept.checkpoint.json_file import finite
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_INPUT = 60
"""Characters of a wrong value that a message quotes."""

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float; null, which stands for NaN and Inf in JSON, is read as NaN."""


class JsonModel(BaseModel):
    """A JSON object. Keys that are not declared are kept, so that a file is written again as it was read."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, defer_build=True)

    def table(self) -> dict[str, Any]:
        """Return the object as plain data, without fields that were not set, and with None for NaN and Inf."""
        found: dict[str, Any] = finite(self.model_dump(mode="json", exclude_unset=True))
        return found

    @classmethod
    def checked(cls, value: object) -> Self:
        """Return the model of plain data. Raises ValueError of one line: key, value, what it should be."""
        try:
            return cls.model_validate_json(json.dumps(value))
        except ValidationError as error:
            raise ValueError(fault(error)) from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    @classmethod
    def parse(cls, value: object, file: Path, part: str, way_out: str) -> Self:
        """Return the model of plain data that was read from a file.

        Raises CheckpointError naming the file, the part of it, the key, what is wrong with it, and the way out.
        """
        try:
            return cls.checked(value)
        except ValueError as error:
            raise CheckpointError(f"{file}: {part} is not as kept writes it ({error}); {way_out}") from None


def fault(error: ValidationError) -> str:
    """Return the first error of a validation in one line: the key, the value, and what it should be."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{where}: is missing"
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("Input should be"):
        given = json.dumps(first["input"], default=str)
        given = given if len(given) <= LONGEST_INPUT else f"{given[:LONGEST_INPUT]}..."
        message = f"is {given}, it{message.removeprefix('Input')}"
    return f"{where}: {message}" if where else message

"""The picture of the architecture: which layers are new, which are gone, and what each is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kept.ir import spec as ir
from kept.ir.serialise import to_json
from kept.output.record import read_record
from kept.pages.architecture import DISTINGUISHED, architecture
from kept.pages.blocks import LayerMap
from reported import LAYER, NORM, RECORD, write_output

if TYPE_CHECKING:
    from pathlib import Path


def size(layers: list[ir.Layer]) -> dict[str, Any]:
    """Return the part of a record about a model with these layers."""
    return {**RECORD["before"], "spec": to_json(ir.Spec(2048, 160, 512, tuple(layers), NORM))}


def picture(folder: Path, before: list[ir.Layer], after: list[ir.Layer], origins: list[int | str]) -> LayerMap:
    """Return the picture of a record."""
    layers = {"of_source": len(before), "origins": origins}
    record = read_record(write_output(folder, before=size(before), after=size(after), layers=layers))
    assert record is not None
    found = architecture(record)
    assert found is not None
    (made,) = (block for block in found.blocks if isinstance(block, LayerMap))
    return made


def indices(made: LayerMap) -> list[list[int | None]]:
    """Return the index of each cell; None for a gap."""
    return [[None if cell is None else cell.index for cell in row.cells] for row in made.rows]


def test_new_layers_stand_below_gaps(tmp_path: Path) -> None:
    made = picture(tmp_path / "out", [LAYER] * 2, [LAYER] * 4, [0, "expand-blocks", 1, "expand-blocks"])
    assert indices(made) == [[0, None, 1, None], [0, 1, 2, 3]]
    assert [cell.is_new for cell in made.rows[1].cells if cell] == [False, True, False, True]
    assert made.summary == "2 layers before, 4 after; new after: 1, 3"


def test_dropped_layers_stand_above_gaps(tmp_path: Path) -> None:
    made = picture(tmp_path / "out", [LAYER] * 4, [LAYER] * 2, [1, 2])
    assert indices(made) == [[0, 1, 2, 3], [None, 0, 1, None]]
    assert made.summary == "4 layers before, 2 after; dropped from before: 0, 3"


def test_absent_branches_have_no_style(tmp_path: Path) -> None:
    after = [replace(LAYER, mixer=None, mixer_norm=None), replace(LAYER, mlp=None, mlp_norm=None)]
    made = picture(tmp_path / "out", [LAYER] * 2, after, [0, 1])
    assert [(cell.mixer, cell.mlp) for cell in made.rows[1].cells if cell] == [(None, 0), (0, None)]


@pytest.mark.parametrize("forms", [2, DISTINGUISHED, DISTINGUISHED + 1])
def test_few_forms_are_distinguished_and_many_are_one_kind(tmp_path: Path, forms: int) -> None:
    layers = [replace(LAYER, mlp=ir.Mlp(8 * (n + 1), "silu")) for n in range(forms)]
    made = picture(tmp_path / "out", layers, layers, list(range(forms)))
    styles = {cell.mlp for cell in made.rows[0].cells if cell}
    assert len(styles) == (forms if forms <= DISTINGUISHED else 1)
    assert len([name for name, colour in made.legend if colour.startswith("mlp")]) == len(styles)


def test_layers_that_do_not_fit_the_record_have_no_picture(tmp_path: Path) -> None:
    layers = {"of_source": 3, "origins": [0, 1]}
    record = read_record(
        write_output(tmp_path / "out", before=size([LAYER] * 2), after=size([LAYER] * 2), layers=layers)
    )
    assert record is not None
    found = architecture(record)
    assert found is not None
    assert [block.kind for block in found.blocks] == ["code", "code"]

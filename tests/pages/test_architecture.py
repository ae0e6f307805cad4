"""The picture of the architecture: which layers are new, which are gone, and what each is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kept.ir import spec as ir
from kept.ir.serialise import to_json
from kept.output.record import read_record
from kept.pages.architecture import architecture, layer_map
from kept.pages.blocks import LayerBox, LayerMap
from kept.pages.layer_styles import DISTINGUISHED
from reported import LAYER, NORM, RECORD, write_output
from support.running_mean import RunningMean

if TYPE_CHECKING:
    from pathlib import Path


class Latent(RunningMean):
    """Keeps `size` numbers for each token."""

    KIND = "latent"

    def describe(self) -> str:
        return f"latent attention of rank {self.size}"

    def state(self) -> tuple[ir.StatePart, ...]:
        return (ir.StatePart(per_token=self.size),)


class Recurrent(RunningMean):
    """Keeps `size` numbers, whatever the length."""

    KIND = "recurrent"

    def describe(self) -> str:
        return f"recurrent mixer with {self.size} numbers"


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


def numbers(made: LayerMap) -> list[list[str | None]]:
    """Return the layer numbers before and after in each column; None for a gap."""
    rows = ([column.before for column in made.columns], [column.after for column in made.columns])
    return [[None if cell is None else cell.words.partition(":")[0][-1] for cell in row] for row in rows]


def boxes(made: LayerMap, branch: int) -> list[LayerBox | None]:
    """Return the boxes of a branch after."""
    return [column.after.boxes[branch] for column in made.columns if column.after is not None]


def test_new_layers_stand_below_gaps(tmp_path: Path) -> None:
    made = picture(tmp_path / "out", [LAYER] * 2, [LAYER] * 4, [0, "expand-blocks", 1, "expand-blocks"])
    assert numbers(made) == [["0", None, "1", None], ["0", "1", "2", "3"]]
    assert [column.after is not None and column.after.is_new for column in made.columns] == [False, True, False, True]
    assert made.summary == "2 layers before, 4 after; new after: 1, 3"


def test_dropped_layers_stand_above_gaps(tmp_path: Path) -> None:
    made = picture(tmp_path / "out", [LAYER] * 4, [LAYER] * 2, [1, 2])
    assert numbers(made) == [["0", "1", "2", "3"], [None, "0", "1", None]]
    assert [column.index for column in made.columns] == [None, 0, 1, None]
    assert made.summary == "4 layers before, 2 after; dropped from before: 0, 3"


def test_absent_branches_have_no_box(tmp_path: Path) -> None:
    after = [replace(LAYER, mixer=None, mixer_norm=None), replace(LAYER, mlp=None, mlp_norm=None)]
    made = picture(tmp_path / "out", [LAYER] * 2, after, [0, 1])
    assert [box is None for box in boxes(made, 0)] == [True, False]
    assert [box is None for box in boxes(made, 1)] == [False, True]


@pytest.mark.parametrize("forms", [2, DISTINGUISHED, DISTINGUISHED + 1])
def test_few_forms_are_distinguished_and_many_are_one(tmp_path: Path, forms: int) -> None:
    layers = [replace(LAYER, mlp=ir.Mlp(8 * (n + 1), "silu")) for n in range(forms)]
    made = picture(tmp_path / "out", layers, layers, list(range(forms)))
    legend = {name: style for name, style in made.legend if style.branch == "mlp"}
    assert {box.style for box in boxes(made, 1) if box} == {*legend.values()}
    if forms <= DISTINGUISHED:
        assert [*legend] == [f"gated silu MLP {8 * (n + 1)}" for n in range(forms)]
    else:
        assert [*legend] == ["gated silu MLP …, in 5 forms"]


def test_a_narrower_mlp_is_filled_less(tmp_path: Path) -> None:
    narrow = [replace(LAYER, mlp=ir.Mlp(100, "silu")), LAYER]
    made = picture(tmp_path / "out", [LAYER] * 2, narrow, [0, 1])
    assert [box.part for box in boxes(made, 1) if box] == [0.25, 1.0]
    assert made.caption.endswith("The filled part of a box is the parameters of its MLP (at most 192,000).")
    assert "filled" not in picture(tmp_path / "same", [LAYER] * 2, [LAYER] * 2, [0, 1]).caption


def test_operations_are_drawn_by_what_they_say_of_themselves() -> None:
    """Kinds that the picture has never heard of, beside attention with a window and no mixer at all."""
    full = LAYER.attention
    assert full is not None
    mixers = (full, replace(full, window=16), Latent(40), Recurrent(640), None)
    layers = [replace(LAYER, mixer=one, mixer_norm=None if one is None else NORM) for one in mixers]
    before = ir.Spec(2048, 160, 512, (LAYER,) * 5, NORM)
    made = layer_map(before, replace(before, layers=tuple(layers)), range(5))
    found = [box and (box.style.colour, box.style.texture, box.part) for box in boxes(made, 0)]
    assert found == [(0, 0, 1.0), (0, 1, 16 / 512), (1, 0, 40 / 320), (2, 0, 640 / (320 * 512)), None]
    assert [name for name, style in made.legend if style.branch == "mixer"] == [
        "attention 4 heads x 40 (rope theta 10000)",
        "attention 4 heads x 40 (window 16, rope theta 10000)",
        "latent attention of rank 40",
        "recurrent mixer with 640 numbers",
    ]
    assert "the decoding state of its mixer after 512 tokens, in numbers (at most 163,840)" in made.caption
    assert made.columns[4].after is not None
    assert made.columns[4].after.words == "after, layer 4: gated silu MLP 400"


def test_more_kinds_than_colours_differ_in_texture() -> None:
    many = [
        type(f"Kind{n}", (Latent,), {"KIND": f"kind {n}", "describe": lambda _, n=n: f"kind {n}"}) for n in range(6)
    ]
    spec = ir.Spec(2048, 160, 512, tuple(replace(LAYER, mixer=kind(8)) for kind in many), NORM)
    made = layer_map(spec, spec, range(6))
    assert len({box.style for box in boxes(made, 0) if box}) == 6


def test_layers_that_do_not_fit_the_record_have_no_picture(tmp_path: Path) -> None:
    layers = {"of_source": 3, "origins": [0, 1]}
    record = read_record(
        write_output(tmp_path / "out", before=size([LAYER] * 2), after=size([LAYER] * 2), layers=layers)
    )
    assert record is not None
    found = architecture(record)
    assert found is not None
    assert [block.kind for block in found.blocks] == ["code"], "both are described in the same words"

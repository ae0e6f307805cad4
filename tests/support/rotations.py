"""Contract of families with rotary positions: each scaling, in the old and the new form of a config."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from transformers import CONFIG_MAPPING

from kept.errors import CheckpointError
from kept.ir.spec import Llama3, LongRope, Yarn
from support.contract import FamilyContract, StockContract
from support.specs import rope_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.checkpoint.reader import Checkpoint

PAIRS = 8
"""Pairs of dimensions that turn in the tiny models: heads of 16."""

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "yarn with everything": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 1.25,
        "mscale": 0.75,
        "mscale_all_dim": 0.5,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0 + i / 8 for i in range(PAIRS)],
        "long_factor": [2.0 + i for i in range(PAIRS)],
    },
    "longrope with everything": {
        "rope_type": "longrope",
        "factor": 4.0,
        "attention_factor": 1.5,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0] * PAIRS,
        "long_factor": [2.0] * PAIRS,
    },
}

PUBLISHED = ("linear", "dynamic")
"""Scalings of Llama's code of 2023."""


def as_any(*values: Any) -> tuple[Any, ...]:
    """Values of several types, without a type."""
    return values


WRONG_ROTATIONS: tuple[tuple[str, Any], ...] = (
    ("rope_type", "no such type"),
    ("rope_type", ["linear"]),
    *(("factor", value) for value in as_any(0, -2.0, "2", True, [2.0], {}, float("inf"))),
    *(("low_freq_factor", value) for value in (-1, "1", True)),
    *(("original_max_position_embeddings", value) for value in (0, -32, 2**40, 32.5, "32", True)),
    *((key, value) for key in ("beta_fast", "beta_slow") for value in (0, -1, "1")),
    *((key, value) for key in ("attention_factor", "mscale", "mscale_all_dim") for value in (-1, "1", True)),
    ("truncate", 0),
    *(("short_factor", value) for value in as_any(1.0, "1", [1.0] * 3, [1.0] * 9, [0.0] * PAIRS, ["1"] * PAIRS, {})),
    *(("long_factor", value) for value in (None, [], [-1.0] * PAIRS)),
)


UNSAID = {"rope_theta", "rotary_emb_base", "rope_scaling", "rope_parameters", "partial_rotary_factor"}


def unrotated(config: Mapping[str, Any], *own: str) -> dict[str, Any]:
    """Return the config without keys of the rotation; `own` are a family's own names of them."""
    return {k: v for k, v in config.items() if k not in {*UNSAID, *own}}


def _kind_with(key: str) -> str:
    return next(kind for kind, said in reversed(SCALINGS.items()) if key in said)


class RotaryContract(FamilyContract):
    """Families that rotate: every scaling, in the old form of a config and in the new one."""

    stated: ClassVar[dict[str, Any]] = {}
    """How much of a head turns, where the family says it."""
    partial_key: ClassVar[str] = "partial_rotary_factor"
    """The key of the same fraction outside a section, if the family has one."""
    theta: ClassVar[float] = 10_000.0
    """The stock class's default."""

    scalings: ClassVar[tuple[str, ...]] = tuple(SCALINGS)
    """Those that the family's classes know."""

    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names that the family accepts for these scalings."""

    unread: ClassVar[tuple[str, ...]] = ()
    """Keys that the stock class does not look for in the rotation's section."""

    def unrotated(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config without keys of the rotation; `theta_key` is the family's name of the base."""
        return unrotated(config, self.theta_key)

    def known_scalings(self) -> list[dict[str, Any]]:
        return [SCALINGS[kind] for kind in self.scalings]

    def test_both_forms_of_a_rotation_read_alike(self, checkpoint: Checkpoint) -> None:
        for said in self.known_scalings():
            old, new = self.both_forms(checkpoint.config, said)
            spec = self.family.read_config(old)
            assert self.family.read_config(new) == spec
            assert self.family.read_config(self.family.write_config(spec, "F32")) == spec
            rope = rope_of(spec.layers[0])
            assert type(rope.scaling).__name__.lower() == said["rope_type"]

    def both_forms(self, config: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The 4.x form, with `type` as its older versions had it, and the 5.x form."""
        plain = self.unrotated(config)
        scaling = {("type" if k == "rope_type" else k): v for k, v in said.items()}
        stated = {(self.partial_key if k == "partial_rotary_factor" else k): v for k, v in self.stated.items()}
        old = {**plain, **stated, self.theta_key: 777.0, "rope_scaling": scaling}
        new = {**plain, "rope_parameters": {"rope_theta": 777.0, **self.stated, **said}}
        return copy.deepcopy(old), copy.deepcopy(new)

    def test_zero_is_unsaid(self, checkpoint: Checkpoint) -> None:
        """Stock classes treat zero, as in DeepSeek's configs, as absent."""
        if "yarn" in self.scalings:
            said = {**self.stated, **SCALINGS["yarn"]}
            zero = {**said, "mscale": 0, "mscale_all_dim": 0.0}
            plain, with_zero = ({**self.unrotated(checkpoint.config), "rope_scaling": given} for given in (said, zero))
            assert self.family.read_config(with_zero) == self.family.read_config(plain)

    def test_scalings_that_the_family_lacks_are_named(self, checkpoint: Checkpoint) -> None:
        for said in SCALINGS.values():
            if said["rope_type"] not in {name.split()[0] for name in (*self.scalings, *self.aliases)}:
                config = {**self.unrotated(checkpoint.config), "rope_scaling": {**self.stated, **said}}
                with pytest.raises(CheckpointError, match=r"rope_type is .*, it must be one of default, "):
                    self.family.read_config(config)

    def test_theta_in_either_place(self, checkpoint: Checkpoint) -> None:
        plain, key = self.unrotated(checkpoint.config), self.theta_key

        def theta(**keys: object) -> float:
            return rope_of(self.family.read_config({**plain, **keys}).layers[0]).theta

        assert theta() == self.theta
        assert theta(**{key: None}, rope_scaling=None, rope_parameters=None) == self.theta
        assert theta(**{key: 5e7}) == 5e7
        assert theta(**{key: 5e7}, rope_scaling={}) == 5e7
        assert theta(rope_parameters={"rope_theta": 3.0}) == 3.0
        inside = {"rope_parameters": {"rope_theta": 3.0, "rope_type": "default"}}
        assert theta(**inside, **{key: 3.0}) == 3.0
        with pytest.raises(CheckpointError, match=rf"rope_theta is 3\.0, it must be 4\.0, as the top-level {key}"):
            theta(**inside, **{key: 4.0})
        assert theta(rope_scaling={}, rope_parameters={"rope_theta": 3.0}) == 3.0

    @pytest.mark.parametrize("section", ["rope_parameters", "rope_scaling"])
    def test_wrong_rotations_are_named(self, checkpoint: Checkpoint, section: str) -> None:
        plain = self.unrotated(checkpoint.config)
        for value in as_any(3, "linear", ["linear"], True):
            with pytest.raises(CheckpointError, match=rf"^config\.json: {section} is .*, it must be an object$"):
                self.family.read_config({**plain, section: value})
        for key, value in WRONG_ROTATIONS:
            if _kind_with(key) not in self.scalings or key in self.unread:
                continue
            said = {**self.stated, **SCALINGS[_kind_with(key)], key: value}
            with pytest.raises(CheckpointError, match=rf"^config\.json: {section}: {key} is .*, it must be "):
                self.family.read_config({**plain, section: said})

    def test_rotations_that_leave_something_out_are_named(self, checkpoint: Checkpoint) -> None:
        for kind, keys in (("linear", ["factor"]), ("llama3", ["factor", "low_freq_factor", "high_freq_factor"])):
            for key in keys:
                if kind not in self.scalings:
                    continue
                said = {k: v for k, v in SCALINGS[kind].items() if k != key}
                with pytest.raises(CheckpointError, match=rf"^config\.json: rope_scaling: has no {key}$"):
                    self.family.read_config({**checkpoint.config, "rope_scaling": said})

    def test_theta_must_be_positive(self, checkpoint: Checkpoint) -> None:
        plain = self.unrotated(checkpoint.config)
        for value in as_any(0, 0.0, -1, "1e4", True, float("inf"), [1], {}):
            with pytest.raises(CheckpointError, match=self.theta_key):
                self.family.read_config({**plain, self.theta_key: value})


class StockRotaryContract(StockContract, RotaryContract):
    """And transformers understands each of them alike."""

    def test_scalings_mean_the_same_to_transformers(self, checkpoint: Checkpoint) -> None:
        for said in self.known_scalings():
            for config in self.both_forms(checkpoint.config, said):
                spec = self.family.read_config(config)
                for stated in (config, self.family.write_config(spec, "F32")):
                    theirs = CONFIG_MAPPING[self.name].from_dict(copy.deepcopy(stated))
                    assert self.family.read_config(theirs.to_dict()) == spec

    @pytest.mark.parametrize("kind", ["llama3", "yarn", "longrope"])
    def test_a_length_outside_the_section_comes_first(self, checkpoint: Checkpoint, kind: str) -> None:
        """Phi-3 states it there, and the stock classes prefer it."""
        if kind not in self.scalings:
            return
        said = {**self.stated, **SCALINGS[kind]}
        config = {**self.unrotated(checkpoint.config), "rope_scaling": said, "original_max_position_embeddings": 16}
        theirs = CONFIG_MAPPING[self.name].from_dict(copy.deepcopy(config))
        theirs.standardize_rope_params()
        rope = rope_of(self.family.read_config(config).layers[0])
        assert isinstance(rope.scaling, Llama3 | Yarn | LongRope)
        assert rope.scaling.original_max_position_embeddings == 16
        assert theirs.rope_parameters["original_max_position_embeddings"] == 16
        assert said["original_max_position_embeddings"] == 32

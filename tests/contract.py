"""What every family must do. A family's tests subclass `FamilyContract` and say which config they are about."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from kept.checkpoint.reader import Checkpoint, open_checkpoint
from kept.errors import CheckpointError
from kept.families import FAMILIES, family_of
from kept.ir.program import Program
from kept.ir.tensors import Given, Stored, torch_dtype, zeros
from kept.nn import generate
from models import logits, model_of, program_of, some_tokens, stock, stock_logits, worst, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from kept.families.table import Family
    from kept.ir.spec import Spec

WRONG: tuple[object, ...] = (-1, "8", {"a": 1}, [3], 10**400)
"""Values that no key of a config may have, whatever it is: negative, text, nested, beyond any number."""

NOT_SIZES: tuple[object, ...] = (0, 2**40, 1.5, True)
NOT_NUMBERS: tuple[object, ...] = (True, float("inf"), float("nan"))
NOT_FLAGS: tuple[object, ...] = (0, 2, "true", 0.0)
NOT_WORDS: tuple[object, ...] = ("no such word", 1, True)


class FamilyContract:
    """Reads, writes, refuses and computes as the stock class does."""

    name: ClassVar[str]
    overrides: ClassVar[dict[str, Any]] = {}
    dtype: ClassVar[torch.dtype] = torch.float32

    sizes: ClassVar[tuple[str, ...]]
    """Keys that hold a positive integer."""
    numbers: ClassVar[tuple[str, ...]]
    """Keys that hold a number that is not negative."""
    flags: ClassVar[tuple[str, ...]]
    """Keys that hold true or false."""
    words: ClassVar[tuple[str, ...]]
    """Keys that hold one of a few words."""

    float64: ClassVar[float] = 1e-5
    """Stock classes compute angles and RMSNorm in float32 whatever the weights have: 2e-6 measured."""
    float32: ClassVar[float] = 2e-5
    """Both sides round every operation, in other orders: 4e-6 measured."""

    @pytest.fixture(scope="class")
    def directory(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp(self.name), self.name, dtype=self.dtype, **self.overrides)

    @pytest.fixture(scope="class")
    def checkpoint(self, directory: Path) -> Checkpoint:
        return open_checkpoint(directory)

    @pytest.fixture(scope="class")
    def program(self, directory: Path) -> Program:
        return program_of(directory)

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    def reference(
        self, directory: Path, tokens: Tensor, dtype: torch.dtype, pads: Sequence[int] | None = None
    ) -> Tensor:
        """Logits that the family's own class gives."""
        return stock_logits(directory, tokens, dtype, pads)

    # ------------------------------------------------------------------------------------------------- what it reads

    def test_dtype(self, program: Program) -> None:
        assert {torch_dtype(lazy.dtype) for lazy in program.weights.values()} == {self.dtype}

    def test_is_found_by_its_model_type(self, checkpoint: Checkpoint) -> None:
        assert family_of(checkpoint.config) is self.family

    def test_config_and_spec_say_the_same(self, checkpoint: Checkpoint) -> None:
        spec = self.family.read_config(checkpoint.config)
        written = self.family.write_config(spec, "F32")
        assert self.family.read_config(written) == spec
        assert self.family.write_config(self.family.read_config(written), "F32") == written

    def test_written_configs_survive_json(self, program: Program) -> None:
        written = self.family.write_config(program.spec, "F32")
        assert self.family.read_config(json.loads(json.dumps(written))) == program.spec

    def test_expresses_itself(self, program: Program) -> None:
        assert self.family.violations(program.spec) == []

    def test_what_it_cannot_say_is_a_violation(self, program: Program) -> None:
        """Negative control: another epsilon in one norm is beyond any of these configs."""
        spec = replace(program.spec, final_norm=replace(program.spec.final_norm, eps=0.125))
        assert any(violation.path.endswith("eps") for violation in self.family.violations(spec))

    def test_tensors_come_back_to_the_byte(self, program: Program, directory: Path) -> None:
        stored = load_file(directory / "model.safetensors")
        written = self.family.write(program)
        assert sorted(written) == sorted(stored)
        for name, lazy in written.items():
            found = lazy.read()
            assert (found.dtype, found.shape) == (stored[name].dtype, stored[name].shape), name
            assert torch.equal(found.view(torch.uint8), stored[name].view(torch.uint8)), name

    def test_tensors_that_did_not_change_are_still_bytes_in_the_file(
        self, program: Program, checkpoint: Checkpoint
    ) -> None:
        assert dict(self.family.write(program)) == dict(checkpoint.tensors)
        assert all(isinstance(lazy, Stored) for lazy in self.family.write(program).values())

    def test_tensors_in_memory_come_back_too(self, program: Program) -> None:
        """Written from values instead of files, and read again."""
        given = {name: Given(lazy.shape, lazy.dtype, lazy.read()) for name, lazy in program.weights.items()}
        tensors = self.family.write(Program(program.spec, given))
        again = self.family.read(self.family.write_config(program.spec, "F32"), tensors)
        for name, lazy in program.weights.items():
            assert torch.equal(again.weights[name].read(), lazy.read()), name

    # --------------------------------------------------------------------------------------------- what it computes

    def test_logits_in_float64(self, directory: Path, program: Program) -> None:
        tokens = some_tokens()
        wanted = self.reference(directory, tokens, torch.float64)
        assert 1 < float(wanted.std()) < 4
        assert worst(logits(program, tokens), wanted) < self.float64

    def test_logits_in_float32(self, directory: Path, program: Program) -> None:
        tokens = some_tokens()
        found = logits(program, tokens, torch.float32)
        assert worst(found, self.reference(directory, tokens, torch.float32)) < self.float32

    def test_logits_of_a_padded_batch(self, directory: Path, program: Program) -> None:
        tokens, pads = some_tokens(3, 20), [0, 4, 11]
        found, wanted = logits(program, tokens, pads=pads), self.reference(directory, tokens, torch.float64, pads)
        for row, skipped in enumerate(pads):
            assert worst(found[row, skipped:], wanted[row, skipped:]) < self.float64

    def test_every_weight_matters(self, program: Program) -> None:
        """Negative control: a tensor whose elements move by one place is not mistaken for itself."""
        tokens = some_tokens(1, 12)
        model = model_of(program)
        with torch.inference_mode():
            wanted = model(tokens)
            for name, parameter in model.named_parameters():
                before = parameter.clone()
                parameter.copy_(before.flatten().roll(1).view_as(before))
                assert worst(model(tokens), wanted) > 100 * self.float64, name
                parameter.copy_(before)

    def test_every_epsilon_and_angle_matters(self, program: Program) -> None:
        """Negative control for what is no weight."""
        tokens = some_tokens(1, 12)
        wanted = logits(program, tokens)
        for spec in _other_specs(program.spec):
            assert worst(logits(replace(program, spec=spec), tokens), wanted) > 10 * self.float64

    def test_greedy_generation_equals_the_stock_class(self, directory: Path, program: Program) -> None:
        """With a cache, batched, left-padded, and stopped by the same end token."""
        prompts = [some_tokens(1, length, seed=length)[0].tolist() for length in (9, 3, 14)]
        found = generate(model_of(program, torch.float32), prompts, 24)
        assert found == self.stock_generation(directory, prompts, 24)
        assert len({token for row in found for token in row}) > 3  # one that repeats itself would prove little

    def stock_generation(self, directory: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
        model, longest = stock(directory, torch.float32, "eager"), max(len(prompt) for prompt in prompts)
        padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        real = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out = model.generate(
            padded, attention_mask=real, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=2
        )
        return [until(row, 2) for row in out[:, longest:].tolist()]

    # ----------------------------------------------------------------------------------------- what the stock class reads

    def test_written_config_has_both_forms(self, program: Program) -> None:
        written = self.family.write_config(program.spec, "BF16")
        assert written["torch_dtype"] == written["dtype"] == "bfloat16"
        if program.spec.layers[0].mixer.rope is not None:
            theta = program.spec.layers[0].mixer.rope.theta
            assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == theta

    def test_written_config_means_the_same_to_transformers(self, program: Program, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(
            json.dumps(self.family.write_config(program.spec, "BF16")), encoding="utf-8"
        )
        theirs = AutoConfig.from_pretrained(tmp_path)
        assert theirs.architectures == [self.family.architecture]
        assert theirs.dtype == torch.bfloat16
        assert self.family.read_config(theirs.to_dict()) == program.spec

    def test_written_checkpoint_loads_and_computes_the_same(
        self, program: Program, directory: Path, tmp_path: Path
    ) -> None:
        """Through disk with nothing of the original, and no tensor missing, extra or initialised at random."""
        tensors = {name: lazy.read().contiguous() for name, lazy in self.family.write(program).items()}
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / "config.json").write_text(
            json.dumps(self.family.write_config(program.spec, program.dtype)), encoding="utf-8"
        )
        model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        assert model.dtype == self.dtype
        tokens = some_tokens()
        # Not to the bit: an activation may be written under another of its names, which rounds differently.
        assert worst(stock_logits(tmp_path, tokens), stock_logits(directory, tokens)) < 1e-12

    @pytest.mark.parametrize("how", ["absent", "null"])
    def test_never_reads_a_config_as_another_model(self, checkpoint: Checkpoint, how: str) -> None:
        """A key that is missing or null: read as the stock class does, or refused by name, or the stock class refuses."""
        for key in checkpoint.config:
            if key in self.lenient:
                continue
            config: dict[str, Any] = copy.deepcopy({k: v for k, v in checkpoint.config.items() if k != key})
            if how == "null":
                config[key] = None
            try:
                theirs = CONFIG_MAPPING[self.name].from_dict(copy.deepcopy(config)).to_dict()
            except Exception:  # noqa: BLE001 - any refusal of theirs will do
                continue
            try:
                ours = self.family.read_config(config)
            except CheckpointError as error:
                assert key in str(error)  # noqa: PT017 - either outcome is right
            else:
                assert ours == self.family.read_config(theirs), key

    lenient: ClassVar[tuple[str, ...]] = ()
    """Keys whose absence the stock class fills with a number that fits one size of model only."""

    # ---------------------------------------------------------------------------------------------- what it refuses

    @pytest.mark.parametrize("kind", ["sizes", "numbers", "flags", "words"])
    def test_values_of_the_wrong_kind_are_named(self, checkpoint: Checkpoint, kind: str) -> None:
        more = {"sizes": NOT_SIZES, "numbers": NOT_NUMBERS, "flags": NOT_FLAGS, "words": NOT_WORDS}[kind]
        for key in getattr(self, kind):
            for value in (*WRONG, *more):
                with pytest.raises(CheckpointError, match=rf"^config\.json: {key} is .*, it must be "):
                    self.family.read_config({**checkpoint.config, key: value})

    def test_keys_without_a_default_are_named(self, checkpoint: Checkpoint) -> None:
        for key in ("n_embd", "n_layer", "n_head") if self.name == "gpt2" else ("hidden_size", "num_hidden_layers"):
            config = {k: v for k, v in checkpoint.config.items() if k != key}
            with pytest.raises(CheckpointError, match=rf"^config\.json: has no {key}$"):
                self.family.read_config(config)

    def test_special_tokens_must_be_ids(self, checkpoint: Checkpoint) -> None:
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            for value in ("2", 1.5, True, {"id": 2}):
                with pytest.raises(CheckpointError, match=key):
                    self.family.read_config({**checkpoint.config, key: value})

    def test_several_end_tokens(self, checkpoint: Checkpoint) -> None:
        spec = self.family.read_config({**checkpoint.config, "eos_token_id": [2, 7]})
        assert spec.tokens.eos == (2, 7)
        assert self.family.write_config(spec, "F32")["eos_token_id"] == [2, 7]

    def test_missing_tensors_are_named(self, checkpoint: Checkpoint) -> None:
        for name in checkpoint.tensors:
            tensors = {k: v for k, v in checkpoint.tensors.items() if k != name}
            with pytest.raises(CheckpointError) as error:
                self.family.read(checkpoint.config, tensors)
            assert str(error.value).startswith(f"{name}: missing"), name

    def test_misshapen_tensors_are_named_with_both_shapes(self, checkpoint: Checkpoint) -> None:
        for name, lazy in checkpoint.tensors.items():
            shape = (*lazy.shape[:-1], lazy.shape[-1] + 1)
            with pytest.raises(CheckpointError) as error:
                self.family.read(checkpoint.config, {**checkpoint.tensors, name: zeros(shape, "F32")})
            message = str(error.value)
            assert message.startswith(f"{name}: has shape {list(shape)}")
            assert message.endswith(str(list(lazy.shape)))

    @pytest.mark.parametrize(
        "name", ["model.layers.0.self_attn.q_norm.weight", "transformer.h.7.ln_1.weight", "adapter.weight"]
    )
    def test_extra_tensors_are_named(self, checkpoint: Checkpoint, name: str) -> None:
        with pytest.raises(CheckpointError) as error:
            self.family.read(checkpoint.config, {**checkpoint.tensors, name: zeros((16,), "F32")})
        assert str(error.value).startswith(f"{name}: {self.name} has no place for this tensor")


def until(tokens: list[int], end: int) -> list[int]:
    """The tokens before the first `end`."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def _other_specs(spec: Spec) -> list[Spec]:
    """The spec with another epsilon at one place, and with another angle."""
    first = spec.layers[0]
    out = [replace(spec, final_norm=replace(spec.final_norm, eps=0.05))]
    out.append(replace(spec, layers=(replace(first, mixer_norm=replace(first.mixer_norm, eps=0.05)), *spec.layers[1:])))
    if first.mixer.rope is not None:
        other = replace(first.mixer, rope=replace(first.mixer.rope, theta=first.mixer.rope.theta * 1.1))
        out.append(replace(spec, layers=(replace(first, mixer=other), *spec.layers[1:])))
    return out


class RopeContract(FamilyContract):
    """Families that rotate: every scaling, in the old form of a config and in the new one."""

    def test_both_forms_of_a_rotation_read_alike(self, checkpoint: Checkpoint) -> None:
        for said in SCALINGS.values():
            old, new = self.both_forms(checkpoint.config, said)
            spec = self.family.read_config(old)
            assert self.family.read_config(new) == spec
            assert self.family.read_config(self.family.write_config(spec, "F32")) == spec
            rope = spec.layers[0].mixer.rope
            assert rope is not None
            assert type(rope.scaling).__name__.lower() == said["rope_type"]

    def test_scalings_mean_the_same_to_transformers(self, checkpoint: Checkpoint) -> None:
        for said in SCALINGS.values():
            for config in self.both_forms(checkpoint.config, said):
                spec = self.family.read_config(config)
                for stated in (config, self.family.write_config(spec, "F32")):
                    theirs = CONFIG_MAPPING[self.name].from_dict(copy.deepcopy(stated))
                    assert self.family.read_config(theirs.to_dict()) == spec

    def both_forms(self, config: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The 4.x form, with `type` as its older versions had it, and the 5.x form."""
        plain = {k: v for k, v in config.items() if k not in {"rope_theta", "rope_scaling", "rope_parameters"}}
        scaling = {("type" if k == "rope_type" else k): v for k, v in said.items()}
        stated = self.partial(config)
        old = {**plain, **stated, "rope_theta": 777.0, "rope_scaling": scaling}
        new = {**plain, "rope_parameters": {"rope_theta": 777.0, **stated, **said}}
        return copy.deepcopy(old), copy.deepcopy(new)

    def partial(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The fraction of a head that turns, where the family states one."""
        return {}

    def test_theta_in_either_place(self, checkpoint: Checkpoint) -> None:
        plain = {
            k: v for k, v in checkpoint.config.items() if k not in {"rope_theta", "rope_scaling", "rope_parameters"}
        }

        def theta(**keys: object) -> float:
            rope = self.family.read_config({**plain, **keys}).layers[0].mixer.rope
            assert rope is not None
            return rope.theta

        assert theta() == 10_000.0
        assert theta(rope_theta=None, rope_scaling=None, rope_parameters=None) == 10_000.0
        assert theta(rope_theta=5e7) == 5e7
        assert theta(rope_theta=5e7, rope_scaling={}) == 5e7
        assert theta(rope_parameters={"rope_theta": 3.0}) == 3.0
        assert theta(rope_parameters={"rope_theta": 3.0, "rope_type": "default"}, rope_theta=4.0) == 3.0
        assert theta(rope_scaling={}, rope_parameters={"rope_theta": 3.0}) == 3.0

    @pytest.mark.parametrize("section", ["rope_parameters", "rope_scaling"])
    def test_wrong_rotations_are_named(self, checkpoint: Checkpoint, section: str) -> None:
        plain = {
            k: v for k, v in checkpoint.config.items() if k not in {"rope_theta", "rope_scaling", "rope_parameters"}
        }
        for value in (3, "linear", ["linear"], True):
            with pytest.raises(CheckpointError, match=rf"^config\.json: {section} is .*, it must be an object$"):
                self.family.read_config({**plain, section: value})
        for key, value in WRONG_ROTATIONS:
            said = {**self.partial(checkpoint.config), **SCALINGS[_kind_with(key)], key: value}
            with pytest.raises(CheckpointError, match=rf"^config\.json: {section}: {key} is .*, it must be "):
                self.family.read_config({**plain, section: said})

    def test_rotations_that_leave_something_out_are_named(self, checkpoint: Checkpoint) -> None:
        for kind, keys in (("linear", ["factor"]), ("llama3", ["factor", "low_freq_factor", "high_freq_factor"])):
            for key in keys:
                said = {k: v for k, v in SCALINGS[kind].items() if k != key}
                with pytest.raises(CheckpointError, match=rf"^config\.json: rope_scaling: has no {key}$"):
                    self.family.read_config({**checkpoint.config, "rope_scaling": said})

    def test_theta_must_be_positive(self, checkpoint: Checkpoint) -> None:
        plain = {k: v for k, v in checkpoint.config.items() if k != "rope_parameters"}
        for value in (0, 0.0, -1, "1e4", True, float("inf"), [1], {}):
            with pytest.raises(CheckpointError, match="rope_theta"):
                self.family.read_config({**plain, "rope_theta": value})


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

WRONG_ROTATIONS: tuple[tuple[str, object], ...] = (
    ("rope_type", "no such type"),
    ("rope_type", ["linear"]),
    *(("factor", value) for value in (0, -2.0, "2", True, [2.0], {}, float("inf"))),
    *(("low_freq_factor", value) for value in (-1, "1", True)),
    *(("original_max_position_embeddings", value) for value in (0, -32, 2**40, 32.5, "32", True)),
    *((key, value) for key in ("beta_fast", "beta_slow") for value in (0, -1, "1")),
    *((key, value) for key in ("attention_factor", "mscale", "mscale_all_dim") for value in (-1, "1", True)),
    ("truncate", 0),
    *(("short_factor", value) for value in (1.0, "1", [1.0] * 3, [1.0] * 9, [0.0] * PAIRS, ["1"] * PAIRS, {})),
    *(("long_factor", value) for value in (None, [], [-1.0] * PAIRS)),
)


def _kind_with(key: str) -> str:
    return next(kind for kind, said in reversed(SCALINGS.items()) if key in said)

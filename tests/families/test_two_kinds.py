"""A family with two kinds of mixer is a table: entries name the kind of operation that they belong to.

The toy family has attention in some layers and a toy mixer in others. Both kinds have an output projection, stored
under different names, and the norms of toy layers have names of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
import torch
from safetensors.torch import load_file, save_file

from kept.checkpoint.safetensors_header import read_header
from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.families.config import Config
from kept.families.entries import Entry, attention_entries, linear, mlp_entries, norm
from kept.families.items import Fixed, Rotary, Size, SpecialTokens
from kept.families.layout import Transposed
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import LAYER, layer_values
from kept.families.table import Family
from kept.ir.facts import PerLayer, Violation, facts, flatten
from kept.ir.spec import OPERATIONS, Attention, Cost, Layer, Mixer, Rope, StatePart
from kept.ir.spec.slot import Slot, Space, linear_slots
from kept.ir.tensors import Stored
from support.models import strong
from support.specs import with_layer
from support.tiny import SIZES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from kept.ir.facts import Facts
    from kept.ir.spec import Norm, Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class ToyMixer(Mixer):
    """A causal convolution of each channel, between two projections."""

    KIND: ClassVar[str] = "toy"

    size: int
    taps: int = 4

    def slots(self, width: int) -> Iterator[tuple[str, Slot]]:
        channels, residual = (self.size, Space.CHANNELS), (width, Space.RESIDUAL)
        yield from linear_slots("in", channels, residual, bias=False)
        yield "conv.weight", Slot((self.size, self.taps), (Space.CHANNELS, Space.HEAD), "conv")
        yield from linear_slots("o", residual, channels, bias=False)

    def norms(self) -> Iterator[tuple[str, Norm, tuple[int, ...]]]:
        yield from ()

    @property
    def readers(self) -> tuple[str, ...]:
        return ("in",)

    @property
    def writers(self) -> tuple[str, ...]:
        return ("o",)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return ()

    def with_norms(self, change: Callable[[Norm], Norm]) -> Self:  # noqa: ARG002 - there is none
        return self

    def with_reader_biases(self) -> None:
        return None

    def describe(self) -> str:
        return f"toy of {self.size} channels"

    def state(self) -> tuple[StatePart, ...]:
        return (StatePart(fixed=self.size * self.taps),)

    def cost(self, width: int, length: int) -> Cost:  # noqa: ARG002 - the same at every length
        return Cost(4.0 * width * self.size)


@dataclass(frozen=True)
class LayerKinds:
    """`kinds`: the kind of each layer's mixer. Comes after the depth."""

    def read(self, config: Config, facts: Facts) -> Facts:
        kinds = config.get("kinds")
        if not isinstance(kinds, list) or len(kinds) != facts["depth"] or not {*kinds} <= {"attention", "toy"}:
            raise config.wrong("kinds", f"a list of {facts['depth']} of attention, toy")
        return {f"{LAYER}mixer": PerLayer(tuple(kinds))}

    def write(self, facts: Facts) -> dict[str, Any]:
        return {"kinds": [*layer_values(facts, f"{LAYER}mixer")]}


def is_toy(layer: Layer) -> bool:
    return isinstance(layer.mixer, ToyMixer)


TOY = f"{LAYER}mixer.toy."

FAMILY = Family(
    name="toy",
    architecture="ToyForCausalLM",
    items=(
        *sizes(),
        LayerKinds(),
        *attention(),
        Size("toy_size", f"{TOY}size"),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(),
        tied_head(default=True),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=(
        Entry("embedding.weight", "model.embed.weight"),
        *norm(f"{LAYER}mixer_norm", "model.layers.{i}.toy.norm", when=is_toy),
        *norm(f"{LAYER}mixer_norm", "model.layers.{i}.norm"),
        *attention_entries("model.layers.{i}.attn"),
        *linear(f"{TOY}in", "model.layers.{i}.toy.in_proj", Transposed()),
        Entry(f"{TOY}conv.weight", "model.layers.{i}.toy.conv"),
        *linear(f"{TOY}o", "model.layers.{i}.toy.out_proj"),
        *norm(f"{LAYER}mlp_norm", "model.layers.{i}.mlp_norm"),
        *mlp_entries("model.layers.{i}.mlp"),
        *norm("final_norm", "model.final_norm"),
        *linear("head", "lm_head"),
    ),
)

KINDS = ["toy", "attention", "toy"]

CONFIG = {**SIZES, "model_type": "toy", "kinds": KINDS, "toy_size": 24, "rms_norm_eps": 1e-3}

WIDTH, CHANNELS = SIZES["hidden_size"], SIZES["intermediate_size"]


@pytest.fixture(autouse=True)
def toy_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, ToyMixer.KIND, ToyMixer)


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Stored names and shapes, written out by hand."""
    yield "model.embed.weight", (SIZES["vocab_size"], WIDTH)  # type: ignore[misc]
    for i, kind in enumerate(KINDS):
        at = f"model.layers.{i}."
        if kind == "toy":
            yield f"{at}toy.norm.weight", (WIDTH,)  # type: ignore[misc]
            yield f"{at}toy.in_proj.weight", (WIDTH, 24)  # type: ignore[misc]
            yield f"{at}toy.conv", (24, 4)
            yield f"{at}toy.out_proj.weight", (WIDTH, 24)  # type: ignore[misc]
        else:
            yield f"{at}norm.weight", (WIDTH,)  # type: ignore[misc]
            for name, rows in (("q", WIDTH), ("k", WIDTH // 2), ("v", WIDTH // 2), ("o", WIDTH)):
                yield f"{at}attn.{name}_proj.weight", (rows, WIDTH)  # type: ignore[misc]
        yield f"{at}mlp_norm.weight", (WIDTH,)  # type: ignore[misc]
        yield f"{at}mlp.gate_proj.weight", (CHANNELS, WIDTH)  # type: ignore[misc]
        yield f"{at}mlp.up_proj.weight", (CHANNELS, WIDTH)  # type: ignore[misc]
        yield f"{at}mlp.down_proj.weight", (WIDTH, CHANNELS)  # type: ignore[misc]
    yield "model.final_norm.weight", (WIDTH,)  # type: ignore[misc]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    random = torch.Generator().manual_seed(0)
    save_file({name: strong(name, shape, random) for name, shape in shapes()}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def stored(file: Path) -> Mapping[str, Lazy]:
    return dict(read_header(file))


def test_a_rotation_of_another_kind_has_its_own_head_size() -> None:
    rotary = Rotary(path=f"{TOY}rope", head_dim=f"{TOY}rope_dim")
    found = rotary.read(Config({"rope_theta": 500.0}), {"context": 64, "depth": 1, f"{TOY}rope_dim": 6})
    assert found == {f"{TOY}rope": Rope(500.0, 6)}
    facts_of_toy = {"depth": 1, f"{TOY}rope_dim": 6, **flatten(f"{TOY}rope", Rope(500.0, 6))}
    assert rotary.write(facts_of_toy)["rope_theta"] == 500.0


def test_layer_types_that_a_table_reads_are_its_own() -> None:
    """transformers has one key for the kinds of all hybrid models; only a table that does not read it restricts it."""
    types = {**CONFIG, "layer_types": KINDS}
    named = replace(FAMILY, items=(*FAMILY.items, Fixed("layer_types", KINDS, "the toy's own")))
    assert named.read_config(types) == FAMILY.read_config(CONFIG)
    with pytest.raises(CheckpointError, match=r"layer_types is .*, it must be full_attention for every layer"):
        FAMILY.read_config(types)
    with pytest.raises(CheckpointError, match="sliding_window is 4, it must be null"):
        named.read_config({**types, "sliding_window": 4})


def test_layers_of_both_kinds_are_read() -> None:
    spec = FAMILY.read_config(CONFIG)
    assert [type(layer.mixer) for layer in spec.layers] == [ToyMixer, Attention, ToyMixer]
    assert facts(spec)[f"{LAYER}mixer"] == PerLayer(tuple(KINDS))


def test_configs_round_trip() -> None:
    spec = FAMILY.read_config(CONFIG)
    written = FAMILY.write_config(spec, "F32")
    assert {key: written[key] for key in CONFIG} == CONFIG
    assert FAMILY.read_config(written) == spec
    assert FAMILY.violations(spec) == []


def test_each_layer_has_the_slots_of_its_kind(stored: Mapping[str, Lazy]) -> None:
    places = FAMILY.places(FAMILY.read(CONFIG, stored).spec)
    assert set(places) == set(stored)
    assert places["model.layers.0.toy.out_proj.weight"] == "layers.0.mixer.o.weight"
    assert places["model.layers.1.attn.o_proj.weight"] == "layers.1.mixer.o.weight"
    assert places["model.layers.0.toy.norm.weight"] == "layers.0.mixer_norm.gain"
    assert places["model.layers.1.norm.weight"] == "layers.1.mixer_norm.gain"


def test_tensors_round_trip_to_the_byte(file: Path, stored: Mapping[str, Lazy]) -> None:
    program = FAMILY.read(CONFIG, stored)
    written = FAMILY.write(program)
    assert written == stored
    assert all(isinstance(lazy, Stored) for lazy in written.values())
    values = load_file(file)
    assert torch.equal(
        program.weights["layers.2.mixer.in.weight"].read(), values["model.layers.2.toy.in_proj.weight"].T
    )


def test_a_tensor_of_the_other_kind_is_unexpected(stored: Mapping[str, Lazy]) -> None:
    """Negative control: kinds in another order ask for other tensors in each layer."""
    other = {**CONFIG, "kinds": ["attention", "toy", "toy"]}
    with pytest.raises(CheckpointError, match=r"^model\.layers\.0\.norm\.weight: missing from the checkpoint"):
        FAMILY.read(other, stored)


def test_entries_without_their_kind_do_not_apply(stored: Mapping[str, Lazy]) -> None:
    """Negative control: the output projection of attention does not stand in for the toy mixer's."""
    entries = tuple(entry for entry in FAMILY.entries if not entry.slot.startswith(f"{TOY}o."))
    with pytest.raises(AssertionError, match=r"toy has no tensor for layers\.\*\.mixer\.toy\.o\.weight"):
        replace(FAMILY, entries=entries).read(CONFIG, stored)


LLAMA = FAMILIES["llama"]


def of_kinds(*kinds: str) -> Spec:
    return FAMILY.read_config({**CONFIG, "kinds": [*kinds]})


def test_a_kind_that_some_layers_have_names_the_first() -> None:
    (found,) = LLAMA.violations(of_kinds("attention", "toy", "toy"))
    assert found == Violation(f"{LAYER}mixer", "toy", "attention", 1)


def test_a_kind_that_all_layers_have_is_one_violation() -> None:
    """The target's items have no values to write; the kinds are compared before."""
    (found,) = LLAMA.violations(of_kinds("toy", "toy", "toy"))
    assert found == Violation(f"{LAYER}mixer", "toy", "attention")
    assert str(found) == "every layer's mixer is toy, the target has attention"


def test_a_target_of_another_kind_names_its_own() -> None:
    """The direction of a conversion into the kind: the planner's rules see what the target needs."""
    only_toys = replace(FAMILY, entries=tuple(one for one in FAMILY.entries if ".attention." not in one.slot))
    (found,) = only_toys.violations(of_kinds("attention", "attention", "attention"))
    assert found == Violation(f"{LAYER}mixer", "attention", "toy")


@pytest.mark.parametrize("branch", ["mixer", "mlp"])
def test_an_absent_branch_is_one_violation(branch: str) -> None:
    spec = of_kinds("attention", "attention", "attention")
    for i in range(spec.depth):
        spec = with_layer(spec, i, **{branch: None, f"{branch}_norm": None})
    needs = "attention" if branch == "mixer" else "dense"
    assert LLAMA.violations(spec) == [Violation(f"{LAYER}{branch}", None, needs)]
    other = replace(LLAMA, optional=frozenset((branch,)))  # type: ignore[arg-type] # a name of a branch
    assert not any(violation.path == f"{LAYER}{branch}" for violation in other.violations(spec))

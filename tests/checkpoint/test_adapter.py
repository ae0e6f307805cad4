"""LoRA adapters: merged as peft does, streamed, rounded once; other kinds of adapter are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import kept
from kept.checkpoint.reader import open_checkpoint
from kept.cli.root import main
from kept.commands.check import check
from kept.errors import CheckpointError
from kept.ir.tensors import Stored
from support.logits import logits, some_tokens, stock, worst
from support.models import write_checkpoint
from support.stored import all_bytes, change_json, read_json, tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LLAMA = ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj", "lm_head"]

KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("llama", {"target_modules": LLAMA, "r": 4, "lora_alpha": 7}),
    "rslora": ("llama", {"target_modules": LLAMA, "r": 4, "lora_alpha": 7, "use_rslora": True}),
    "some layers": ("llama", {"target_modules": ["v_proj"], "layers_to_transform": [1], "r": 2, "lora_alpha": 4}),
    "dora": ("llama", {"target_modules": LLAMA, "r": 4, "lora_alpha": 7, "use_dora": True}),
    "embeddings": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "r": 4, "lora_alpha": 7}),
    "dora of embeddings": ("llama", {"target_modules": ["embed_tokens"], "r": 4, "lora_alpha": 7, "use_dora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "k_proj", "up_proj"],
            "r": 4,
            "lora_alpha": 7,
            "use_rslora": True,
            "rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 2},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 5, "self_attn.k_proj": 9},
        },
    ),
    "saved modules": (
        "llama",
        {
            "target_modules": ["q_proj"],
            "r": 4,
            "lora_alpha": 7,
            "modules_to_save": ["lm_head", "embed_tokens", "input_layernorm"],
        },
    ),
    "biases": ("qwen2", {"target_modules": ["q_proj", "o_proj"], "r": 4, "lora_alpha": 7, "bias": "all"}),
    "biases of its modules": ("qwen2", {"target_modules": ["q_proj"], "r": 4, "lora_alpha": 7, "bias": "lora_only"}),
    "dora (in, out)": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj"], "r": 3, "lora_alpha": 5, "fan_in_fan_out": True, "use_dora": True},
    ),
    "(in, out)": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "r": 3, "lora_alpha": 5, "fan_in_fan_out": True}),
}


def write_adapter(base: Path, out: Path, **options: Any) -> Path:
    """Write an adapter of a checkpoint with random factors, saved by peft."""
    tuned = get_peft_model(stock(base, torch.float32), LoraConfig(task_type="CAUSAL_LM", **options))
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=random))
            elif parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=random))
    tuned.save_pretrained(str(out))
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return write_adapter(base, tmp_path / "adapter", **KINDS["plain"][1])


FLIPPED = {
    "llama": {"target_modules": ["q_proj", "o_proj"], "r": 4, "lora_alpha": 7},
    "gpt2": {"target_modules": ["c_proj"], "r": 3, "lora_alpha": 5, "fan_in_fan_out": True},
}
"""Adapters of square weights, whose shape does not show whether they are stored transposed."""


@pytest.mark.parametrize("family", FLIPPED)
def test_the_class_of_a_module_decides_which_way_round_it_is(tmp_path: Path, family: str) -> None:
    base = write_checkpoint(tmp_path / "base", family)
    adapter = write_adapter(base, tmp_path / "adapter", **FLIPPED[family])
    wrong = not read_json(adapter / "adapter_config.json")["fan_in_fan_out"]
    change_json(adapter / "adapter_config.json", fan_in_fan_out=wrong)
    whole = PeftModel.from_pretrained(stock(base), adapter).double()
    tokens = some_tokens()
    with torch.inference_mode():
        assert worst(logits(kept.open_model(adapter).program, tokens), whole(tokens).logits) < 1e-5


@pytest.mark.parametrize(("kind", "pickled"), [*((kind, False) for kind in KINDS), ("plain", True)])
def test_merged_as_peft_merges(tmp_path: Path, kind: str, *, pickled: bool) -> None:
    family, options = KINDS[kind]
    base = write_checkpoint(tmp_path / "base", family)
    adapter = write_adapter(base, tmp_path / "adapter", **options)
    whole = PeftModel.from_pretrained(stock(base), adapter).double().merge_and_unload()
    if pickled:
        torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
        (adapter / "adapter_model.safetensors").unlink()
    opened, plain = kept.open_model(adapter), open_checkpoint(base)
    wanted = whole.state_dict()
    found = {name: tensor.value("float64") for name, tensor in opened.checkpoint.tensors.items()}
    assert found.keys() == plain.tensors.keys()
    for name, tensor in found.items():
        assert (tensor - wanted[name]).abs().max() < 1e-12, name
    assert any(not torch.equal(found[name], one.value("float64")) for name, one in plain.tensors.items())
    tokens = some_tokens()
    with torch.inference_mode():
        assert worst(logits(opened.program, tokens), whole(tokens).logits) < 1e-5


def test_an_adapter_becomes_a_checkpoint(base: Path, adapter: Path, tmp_path: Path) -> None:
    before, out = all_bytes(adapter), tmp_path / "out"
    result = CliRunner().invoke(main, ["convert", str(adapter), str(out), "--verify-tokens", "16"])
    assert result.exit_code == 0, result.output
    assert "promise exact: kept" in result.output
    merged = {name: tensor.read() for name, tensor in kept.open_model(adapter).checkpoint.tensors.items()}
    assert all(torch.equal(tensor, merged[name]) for name, tensor in tensors_of(out).items())
    record = read_json(out / "kept.json")
    assert record["source"]["name"] == "llama+adapter"
    assert {"adapter_config.json", "adapter_model.safetensors", "model.safetensors"} <= record["source"]["files"].keys()
    assert str(tmp_path) not in (out / "kept.json").read_text(encoding="utf-8")
    assert all_bytes(adapter) == before
    assert base.is_dir()


def test_the_base_that_is_named_wins(adapter: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "llama", seed=5)
    change_json(adapter / "adapter_config.json", base_model_name_or_path="org/base")
    for command in (["plan", adapter], ["inspect", adapter], ["convert", adapter, tmp_path / "out"]):
        result = CliRunner().invoke(main, [*map(str, command)])
        assert result.exit_code == 2
        wrong = f"{adapter}: is an adapter (peft) of org/base, which is neither a directory nor in the hub cache"
        assert f"{wrong}; merge it first: kept convert ADAPTER OUT --base DIR" in result.stderr
    for command in (["plan", adapter], ["inspect", adapter], ["convert", adapter, tmp_path / "out"]):
        result = CliRunner().invoke(main, [*map(str, command), "--base", str(other)])
        assert result.exit_code == 0, result.output
    norm = "model.layers.0.input_layernorm.weight"
    assert torch.equal(tensors_of(tmp_path / "out")[norm], tensors_of(other)[norm])
    assert "base" not in read_json(tmp_path / "out" / "kept.json")["recipe"]


def test_an_adapter_is_merged_into_a_source(base: Path, adapter: Path, tmp_path: Path) -> None:
    """The base is the source and the adapter an option: the output is that of the adapter with its base."""
    change_json(adapter / "adapter_config.json", base_model_name_or_path="org/nowhere")
    for command in (["plan", base], ["inspect", base], ["convert", base, tmp_path / "out"]):
        result = CliRunner().invoke(main, [*map(str, command), "--adapter", str(adapter)])
        assert result.exit_code == 0, result.output
    merged = {name: one.read() for name, one in kept.open_model(adapter, base).checkpoint.tensors.items()}
    assert all(torch.equal(tensor, merged[name]) for name, tensor in tensors_of(tmp_path / "out").items())
    record = read_json(tmp_path / "out" / "kept.json")
    assert record["source"]["name"] == "llama+adapter"
    assert "adapter_model.safetensors" in record["source"]["files"]
    assert "adapter" not in record["recipe"]


def test_a_recipe_names_an_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'out = "{tmp_path}/out"\n[[steps]]\ndo = "convert"\nsource = "{base}"\nadapter = "{adapter}"\nto = "llama"\n'
    )
    result = CliRunner().invoke(main, ["run", str(recipe)])
    assert result.exit_code == 0, result.output
    assert read_json(tmp_path / "out" / "kept.json")["source"]["name"] == "llama+adapter"


@pytest.mark.parametrize("kind", ["plain", "dora", "embeddings"])
def test_matrices_are_merged_in_blocks(base: Path, tmp_path: Path, kind: str) -> None:
    """Memory does not grow with a matrix: only the factors are held whole."""
    opened = kept.open_model(base, adapter=write_adapter(base, tmp_path / "adapter", **KINDS[kind][1]))
    merged = [one for one in opened.checkpoint.tensors.values() if not isinstance(one, Stored)]
    assert merged
    for tensor in merged:
        assert tensor.by_rows
        assert (torch.cat([*tensor.blocks("float64", 300)]) - tensor.value("float64")).abs().max() < 1e-12


def test_what_an_adapter_is_merged_into(base: Path, adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="llama: is not an adapter"):
        kept.open_model(base, adapter=base)
    with pytest.raises(CheckpointError, match="adapter: is an adapter itself; merge one after the other"):
        kept.open_model(adapter, adapter=adapter)


def test_an_adapter_beside_a_whole_model_is_refused(base: Path, adapter: Path) -> None:
    """transformers applies the adapter only if peft is installed."""
    (adapter / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    (adapter / "config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: transformers loads model\.safetensors with this"):
        kept.open_model(adapter)


def test_a_base_without_an_adapter(base: Path) -> None:
    with pytest.raises(CheckpointError, match="is not an adapter"):
        kept.open_model(base, base)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LoRA"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"use_dora": True}, "has no magnitude, use_dora in adapter_config.json says otherwise"),
        ({"use_qalora": True}, "use_qalora is set, which is not plain LoRA; merge the adapter with peft"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save names 'embed_tokens', but adapter_model.safetensors"),
        ({"target_modules": [*LLAMA, "W_pack"]}, "target_modules names 'W_pack', but adapter_model.safetensors stores"),
        ({"rank_pattern": {"q_proj": 3}}, "has factors of rank [4], adapter_config.json says 3"),
        ({"rank_pattern": {"(a+)+q": 3}}, "rank_pattern has the pattern '(a+)+q'; merge the adapter with peft"),
        ({"alpha_pattern": {"q_proj": None}}, "q_proj is None, it must be a number"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is set"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication is set"),
        ({"something_new": 1}, "something_new is set"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base"),
        ({"target_modules": ["v_proj"]}, "is not among target_modules of adapter_config.json, so peft ignores it"),
        ({"exclude_modules": ["q_proj"]}, "q_proj.weight is among exclude_modules"),
        ({"layers_to_transform": [1]}, "is not among layers_to_transform"),
        ({"layers_to_transform": 1}, "is not among layers_to_transform"),
        ({"r": 8}, "has factors of rank [4], adapter_config.json says 8"),
        ({"r": 0}, "is 0, it must be a positive integer"),
        ({"lora_alpha": "x"}, "is 'x', it must be a number"),
        ({"base_model_name_or_path": None}, "is an adapter (peft) and names no base; say which with --base"),
    ],
)
def test_what_is_no_plain_lora(adapter: Path, changes: dict[str, Any], reason: str) -> None:
    change_json(adapter / "adapter_config.json", **changes)
    with pytest.raises(CheckpointError) as caught:
        kept.open_model(adapter)
    assert reason in str(caught.value)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        (f"{Q}.lora_A.weight", (4, 63), "q_proj.weight is [64, 64] in the base, the adapter's is [64, 63]"),
        (f"{Q}.lora_A.weight", (5, 64), "has factors of rank [5], adapter_config.json says 4"),
        (f"{Q}.lora_B.weight", (64, 5), "has factors of shapes [64, 5] and [4, 64], which do not fit"),
        (f"{Q}.lora_A.weight", (4,), "has factors of shapes [64, 4] and [4], which do not fit"),
        (f"{Q}.lora_magnitude_vector", (64,), "q_proj has a magnitude, use_dora in adapter_config.json says otherwise"),
        ("base_model.model.lm_head.weight", (97, 64), "lm_head.weight is not a plain LoRA matrix"),
        ("base_model.model.model.layers.9.x.lora_A.weight", (4, 64), "layers.9.x has only one of its two matrices"),
    ],
)
def test_tensors_that_do_not_fit(adapter: Path, name: str, shape: tuple[int, ...], reason: str) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({**load_file(file), name: torch.zeros(shape)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        kept.open_model(adapter)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", [f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"])
def test_factors_that_are_no_floats(adapter: Path, name: str) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name].long()}, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"lora_[AB]\.weight has dtype I64, it must be one of F64, F32, F16, BF16"
    ):
        kept.open_model(adapter)


def test_an_adapter_without_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter: is an adapter without adapter_model\.safetensors or"):
        kept.open_model(adapter)


def test_check_takes_an_adapter_with_its_base(base: Path, adapter: Path) -> None:
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    found = check(adapter)
    assert (found.family, found.damage) == ("llama", ())
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in weights if "layers.1.self_attn.q_proj.lora_A" in name)
    weights[name][0, 0] = torch.nan
    save_file(weights, adapter / "adapter_model.safetensors")
    (damage,) = check(adapter).damage
    assert "q_proj" in damage
    assert "NaN" in damage


def test_check_names_an_adapter_whose_base_is_not_here(adapter: Path) -> None:
    change_json(adapter / "adapter_config.json", base_model_name_or_path="org/nowhere")
    (damage,) = check(adapter).damage
    assert "is an adapter (peft) of org/nowhere, which is neither a directory nor in the hub cache" in damage

"""`kept convert --kv`: a truncated output is written, measured, checked and recorded as any other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoModelForCausalLM

import kept
from kept.errors import KeptError
from kept.ir.promise import Promise
from support.logits import logits, program_of, some_tokens, stock_logits, worst
from support.stored import write_readable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("kv") / "llama", "llama")


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "book.txt"
    words = ["once", "upon", "a", "time", "there", "was", "an", "old", "fox"]
    lines = (" ".join(words[(i * k) % 9] for k in range(1, 30)) for i in range(200))
    file.write_text("\n\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("target", "options"),
    [("deepseek_v3", {}), ("kept", {"ranks": "per-layer"})],
    ids=["stock class", "a rank per layer in our own class"],
)
def test_a_truncated_output(llama: Path, book: Path, tmp_path: Path, target: str, options: dict[str, Any]) -> None:
    done = kept.convert(
        llama, tmp_path / "out", to=target, kv=0.5, data=str(book), calibration_tokens=512, dtype="float32", **options
    )
    assert done.plan.promise is Promise.LOSSY
    assert done.verification is not None
    assert done.verification.failure is None
    tokens = some_tokens()
    stock = AutoModelForCausalLM.from_pretrained(done.path, trust_remote_code=False)
    assert type(stock).__name__ == {"deepseek_v3": "DeepseekV3ForCausalLM", "kept": "KeptForCausalLM"}[target]
    assert worst(logits(program_of(done.path), tokens), stock_logits(done.path, tokens)) < 1e-4
    assert kept.check(done.path).damage == ()
    record = json.loads((done.path / "kept.json").read_text())
    (size,) = record["after"]["kv_cache"].values()
    (whole,) = record["before"]["kv_cache"].values()
    assert 0.4 * whole < size <= 0.5 * whole, "float32 both"
    assert "truncate-latent" in (done.path / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"to": "llama", "kv": 0.5}, "a conversion to llama makes no attention latent"),
        ({"kv": 0.01}, "is below what is possible; ask for 9.4% or more"),
        ({"kv": 0.5, "ranks": "per-layer"}, "--to kept"),
        ({"kv": 0.5, "kv_ranks": (8, 8)}, "kv and kv_ranks both set the size of the cache"),
        ({"kv": 1.5}, "above 0 and at most 100%"),
        ({"kv_ranks": (8,)}, "has 1 numbers"),
        ({"kv": 0.5, "data": ()}, "give --data FILE"),
    ],
)
def test_refusals(llama: Path, book: Path, tmp_path: Path, options: dict[str, Any], line: str) -> None:
    with pytest.raises(KeptError) as error:
        kept.convert(llama, tmp_path / "out", **{"to": "deepseek_v3", "data": str(book), **options})
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()

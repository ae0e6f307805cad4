"""transformers loads an output where kept is not installed, and without remote code after `import kept`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from support.logits import logits, some_tokens

if TYPE_CHECKING:
    from native.conftest import BothClasses

REMOTE = """
import json, sys
sys.path.extend(json.loads(sys.argv[2]))
try:
    import kept
except ImportError:
    pass
else:
    raise SystemExit("kept can be imported")
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float64)
tokens = torch.load(sys.argv[3])
out = model.generate(tokens, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
torch.save((model(tokens).logits.detach(), out), sys.argv[4])
model.save_pretrained(sys.argv[5])
print(type(model).__module__)
"""

AFTER_IMPORT = """
import sys
import torch
import kept
assert "transformers" not in sys.modules
from transformers import GenerationMixin  # imports the Auto classes while it is itself being imported
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float64)
torch.save(model(torch.load(sys.argv[2])).logits.detach(), sys.argv[3])
print(type(model).__module__)
"""


def run(code: str, *words: object, folder: Path, alone: bool = False) -> str:
    """Run code in a fresh process, and return what it prints. `alone`: without the paths of this environment."""
    options = ["-I", "-S"] if alone else []
    known = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = (sys.executable, *options, "-c", code, *words)
    done = subprocess.run([str(word) for word in words], env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def packages() -> list[str]:
    """Folders of the packages that transformers needs, which are not those of kept."""
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    return [str(Path(spec.origin).parents[1])]


@pytest.mark.slow
def test_where_kept_is_not_installed(models: dict[str, BothClasses], tmp_path: Path) -> None:
    both, tokens = models["deepseek_v3"], some_tokens(2, 6)
    torch.save(tokens, tmp_path / "tokens.pt")
    words: tuple[Any, ...] = (json.dumps(packages()), tmp_path / "tokens.pt", tmp_path / "out.pt", tmp_path / "saved")
    module = run(REMOTE, both.output, *words, folder=tmp_path, alone=True)
    assert module.startswith("transformers_modules.")
    found, generated = torch.load(tmp_path / "out.pt")
    assert torch.equal(found, logits(both.program, tokens))
    own = both.own().generate(tokens, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(generated, own)
    for file in both.output.iterdir():
        if file.suffix in {".py", ".safetensors"}:
            assert (tmp_path / "saved" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_after_import_kept_no_code_of_the_output_runs(models: dict[str, BothClasses], tmp_path: Path) -> None:
    both, tokens = models["llama"], some_tokens(1, 6)
    torch.save(tokens, tmp_path / "tokens.pt")
    code = both.output / "modeling_kept.py"
    before = code.read_bytes()
    code.write_text("raise SystemExit('this code was run')", encoding="utf-8")
    try:
        words = (both.output, tmp_path / "tokens.pt", tmp_path / "out.pt")
        assert run(AFTER_IMPORT, *words, folder=tmp_path) == "kept.native.modeling_kept"
    finally:
        code.write_bytes(before)
    assert torch.equal(torch.load(tmp_path / "out.pt"), logits(both.program, tokens))

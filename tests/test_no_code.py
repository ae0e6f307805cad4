"""No module of the package unpickles, evaluates text or loads remote code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "kept"

UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}

LOADERS = {"BaseLoader", "SafeLoader", "CSafeLoader", "CBaseLoader"}
"""YAML loaders that construct plain data only."""

ALLOWED = {
    ("checkpoint/pickle_worker.py", "pickle"): "names the error of a file that torch refuses, in a fenced process",
    ("evaluation/jail.py", "exec"): "of what a model wrote, where that was allowed, in a process that can only compute",
    ("evaluation/jail.py", "compile"): "the same",
}
"""Exceptions: module and name, with the reason."""


def findings(source: str) -> set[str]:
    """Return the imports and calls in a source that can run code from data."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                found |= {alias.name.partition(".")[0] for alias in names} & UNPICKLERS
            case ast.ImportFrom(module=str(module)):
                found |= {module.partition(".")[0]} & UNPICKLERS
                if module.startswith("torch.distributed") and "checkpoint" in ast.unparse(node):
                    found.add("torch.distributed.checkpoint")
            case ast.Call():
                found |= _call(node)
    return found


def _call(node: ast.Call) -> set[str]:
    called = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in {"eval", "exec", "compile", "__import__"}:
        return {called}
    if called == "torch.load" and keywords.get("weights_only") != "True":
        return {"torch.load"}
    if called in {"np.load", "numpy.load"} and keywords.get("allow_pickle", "False") != "False":
        return {"np.load"}
    if called in {"yaml.load", "yaml.load_all"} and keywords.get("Loader", "").rpartition(".")[2] not in LOADERS:
        return {"yaml.load"}
    if called in {"yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "run_path", "runpy.run_path"}:
        return {called}
    return {"trust_remote_code"} if keywords.get("trust_remote_code", "False") != "False" else set()


@pytest.mark.parametrize("file", sorted(SOURCES.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCES)))
def test_a_module_runs_nothing_that_it_reads(file: Path) -> None:
    name = str(file.relative_to(SOURCES))
    assert {found for found in findings(file.read_text(encoding="utf-8")) if (name, found) not in ALLOWED} == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "from torch.distributed import checkpoint as dcp",
        "from torch.distributed.checkpoint.state_dict import get_state_dict",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_what_runs_is_found(source: str) -> None:
    """Negative control."""
    assert findings(source)

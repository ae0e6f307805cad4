"""The kernels of MKL are resolved before kept computes anything."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from kept.nn.resolve_kernels import FUNCTIONS

COUNT = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode

class Calls(TorchDispatchMode):
    names = []
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))

with Calls():
    import kept.nn.rope
print(*Calls.names)
"""


def test_import_of_any_module_of_nn_resolves_them() -> None:
    """A module of kept.nn cannot be imported without it, so no model runs before."""
    run = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    calls = Counter(run.stdout.split())
    assert all(calls[function.__name__] == 2 for function in FUNCTIONS), calls

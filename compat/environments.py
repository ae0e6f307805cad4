"""The runtimes that outputs are tried in, each in a folder of its own that pip fills; kept between runs.

Every environment is a folder put before the project's own site-packages: it shadows transformers, tokenizers and
huggingface-hub, and reuses torch, numpy and the rest. transformers 5 is the project's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REQUESTS = ("requests==2.34.2", "charset-normalizer==3.5.2", "urllib3==2.8.0", "certifi")
"""Packages that huggingface-hub 0.36 needs; 2.x, which the project uses, does not need them."""

TRANSFORMERS = {
    "transformers 4.45": ("transformers==4.45.2", "tokenizers==0.20.3", "huggingface-hub==0.36.0", *REQUESTS),
    "transformers 4.57": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.0", *REQUESTS),
    "transformers 5": (),
}
"""Packages that replace the project's own ones, by runtime."""

LLAMA_CPP = "llama-cpp-python==0.3.36"
"""Its source package holds llama.cpp: the converter, and the runtime that pip builds with the machine's compiler."""

BUILD = "-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAMA_OPENSSL=OFF"
"""The processor only, and none of llama.cpp's programs."""


@dataclass(frozen=True)
class Environment:
    """Directory of a runtime's packages, and its converter, if any."""

    packages: Path
    converter: Path | None = None

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run the project's Python with these packages first."""
        found = {**os.environ, "PYTHONPATH": str(self.packages), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        words = [sys.executable, *map(str, command)]
        return subprocess.run(words, env=found, capture_output=True, text=True, check=False)


def with_transformers(name: str, root: Path) -> Environment:
    """A version of transformers."""
    pins = TRANSFORMERS[name]
    return Environment(_once(root, name, pins, lambda folder: _install(folder, *pins)) if pins else root)


def with_llama_cpp(root: Path) -> Environment:
    """llama.cpp; the build takes five minutes on two cores."""
    folder = _once(root, "llama.cpp", (LLAMA_CPP, BUILD), _build)
    (converter,) = folder.glob("source/*/vendor/llama.cpp/convert_hf_to_gguf.py")
    return Environment(folder / "packages", converter)


def _build(folder: Path) -> None:
    _pip("download", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", folder, LLAMA_CPP)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    os.environ["CMAKE_ARGS"] = BUILD
    _install(folder / "packages", source, "diskcache==5.6.3")
    archive.unlink()


def _once(root: Path, name: str, pins: tuple[str, ...], fill: Callable[[Path], None]) -> Path:
    """A folder that `fill` has filled; made anew where the pins changed or an earlier run did not finish."""
    folder = root / f"{name.replace(' ', '-')}-{sha256(' '.join(pins).encode()).hexdigest()[:8]}"
    ready = folder / ".ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sys.stderr.write(f"{name}: installing into {folder}\n")
        fill(folder)
        ready.touch()
    return folder


def _install(folder: Path, *packages: object) -> None:
    _pip("install", "--no-deps", "--target", folder, *packages)


def _pip(*words: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)], check=True
    )

"""Runs one Python program with limits: `python -I -m kept.evaluation.jail TOKEN SECONDS MEGABYTES PARENT`.

The program is the standard input. Before it runs, this process gives up all that `isolate` names. When the program has
run to its end, and only then, this process reads the token that waits in the pipe TOKEN, and writes it to the standard
output that it began with.
"""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
from pathlib import Path

from kept.fence.isolation import bound, die_with, leave_network, only_compute, stop_writing

TOKEN = 32
"""Bytes of a token."""

SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")

FILES = 64
"""Descriptors, and so pipes, that a program may have open."""


def readable() -> list[str]:
    """What a program may read: Python's own library, installed packages, and what those load."""
    own = [str(Path(base) / "lib") for base in (sys.prefix, sys.base_prefix)]
    paths = sysconfig.get_paths()
    return [*own, *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")), *SYSTEM, *DEVICES]


def limit(seconds: int, megabytes: int) -> None:
    """Bound what this process may use; no core file, nothing written, no other process."""
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, megabytes << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        bound(what, most)


def isolate(seconds: int, megabytes: int) -> None:
    """Leave the network; read the library alone; change no file; then make no call that reaches beyond this process.

    What the system does not know is not done: `sandbox.fences` finds out.
    """
    leave_network()
    stop_writing(readable())
    limit(seconds, megabytes)
    only_compute()


def main(token: str, seconds: str, megabytes: str, parent: str) -> None:
    """Run the program in what is left."""
    die_with(int(parent))
    program, said, nowhere = sys.stdin.buffer.read(), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    isolate(int(seconds), int(megabytes))
    exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})  # noqa: S102 - that is what it is for
    os.write(said, os.read(int(token), TOKEN))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Run one Python program with limits: `python -I -m kept.evaluation.jail TOKEN SECONDS MEGABYTES PARENT`.

The program is read from standard input. Before it runs, the process gives up the rights that `isolate` lists. Only
after the program has finished, the process reads the token from the pipe TOKEN and writes it to its original standard
output.
"""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
from pathlib import Path

from kept.fence.isolation import bound, die_with, leave_network, only_compute, stop_writing

TOKEN = 32
"""Length of a token in bytes."""

SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")
"""Shared libraries and time zones, which Python's modules load."""

DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")
"""Devices that a program may open."""

FILES = 64
"""Maximum number of open file descriptors, pipes included."""


def readable() -> list[str]:
    """Return the paths that a program may read: the standard library, installed packages and shared libraries."""
    own = [str(Path(base) / "lib") for base in (sys.prefix, sys.base_prefix)]
    paths = sysconfig.get_paths()
    return [*own, *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")), *SYSTEM, *DEVICES]


def limit(seconds: int, megabytes: int) -> None:
    """Limit processor time in seconds and memory in MB; forbid core files, writing files and new processes."""
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
    """Give up the network, all files but Python's libraries, writing, and system calls that affect other processes.

    A protection that the kernel does not support is skipped; `sandbox.fences` tests which ones hold.
    """
    leave_network()
    stop_writing(readable())
    limit(seconds, megabytes)
    only_compute()


def main(token: str, seconds: str, megabytes: str, parent: str) -> None:
    """Isolate this process, run the program, and write the token after it has finished."""
    die_with(int(parent))
    program, said, nowhere = sys.stdin.buffer.read(), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    isolate(int(seconds), int(megabytes))
    exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})  # noqa: S102 - the purpose of this process
    os.write(said, os.read(int(token), TOKEN))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Runs one Python file with limits, as a program of its own: `python -I jail.py FILE SECONDS MEGABYTES`.

Before the file is run, this process gives up, as far as the system lets it: processor time, memory, file sizes, other
processes, the network (a namespace without any), and to write, make or remove files (Landlock). It says `passed` on its
standard output if the file ran to its end, whatever the file itself printed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import runpy
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET, PR_SET_NO_NEW_PRIVS = 0x10000000, 0x40000000, 38

LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446
"""System calls that have these numbers on every architecture."""

CHANGES = sum(1 << bit for bit in (1, *range(4, 13)))
"""Landlock's rights to write a file, to remove one or a directory, and to make any kind of file."""

TRUNCATE = 1 << 14
"""The right to cut a file short, which older kernels do not know."""


def limit(seconds: int, megabytes: int) -> None:
    """Bound what this process and its children may use; no core files, nothing written."""
    memory = megabytes << 20
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def isolate() -> None:
    """Leave the network behind, and the right to change files. What the system does not know it does not do."""
    if platform.system() != "Linux":
        return
    library = ctypes.CDLL(None, use_errno=True)
    library.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for rights in (CHANGES | TRUNCATE, CHANGES):
        rules = library.syscall(LANDLOCK_CREATE, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
        if rules >= 0:
            library.syscall(LANDLOCK_RESTRICT, rules, 0)
            os.close(rules)
            return


def main(file: str, seconds: str, megabytes: str) -> None:
    """Run the file in what is left."""
    said, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    isolate()
    limit(int(seconds), int(megabytes))
    runpy.run_path(file, run_name="__main__")
    os.write(said, b"passed")


if __name__ == "__main__":
    main(*sys.argv[1:])

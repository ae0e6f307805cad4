"""What a process gives up before it works on an untrusted file: memory, the network, and the right to write.

Each step is tried, and says whether it holds: systems differ in what they offer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS = 38

LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446
"""System calls that have these numbers on every architecture."""

CHANGES = sum(1 << bit for bit in (1, *range(4, 13)))
"""Landlock's rights to write a file, to remove one or a directory, and to make any kind of file."""

TRUNCATE = 1 << 14
"""The right to cut a file short, which older kernels do not know."""


def bound_memory(memory: int) -> None:
    """Bound this process's private writable memory, in bytes; it writes no file and leaves no core file."""
    of_memory = resource.RLIMIT_DATA if platform.system() == "Linux" else resource.RLIMIT_AS
    for what, most in ((of_memory, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def leave_network() -> bool:
    """Enter a network namespace without any interface. Whether that holds.

    A user namespace is made only where it is needed: in one, root reads no other user's files.
    """
    if platform.system() != "Linux":
        return False
    unshare = _library().unshare
    return bool(unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def stop_writing() -> bool:
    """Give up the right to write, make and remove files (Landlock). Whether that holds."""
    if platform.system() != "Linux":
        return False
    library = _library()
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for rights in (CHANGES | TRUNCATE, CHANGES):
        rules = library.syscall(LANDLOCK_CREATE, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
        if rules >= 0:
            restricted: int = library.syscall(LANDLOCK_RESTRICT, rules, 0)
            os.close(rules)
            return restricted == 0
    return False


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

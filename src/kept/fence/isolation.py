"""Restrictions that a process puts on itself before it works on untrusted files: memory, network, files, processes.

Each function returns whether the system supports the restriction. None needs a privilege, and all bind root too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
from typing import TYPE_CHECKING

from kept.fence.calls import (
    ALLOWED,
    CLONE_THREAD,
    PR_SET_NO_NEW_PRIVS,
    REFUSED,
    UNKNOWN,
    containing,
    give_up,
    null,
    only,
    without,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG = 1
"""prctl option: the signal that the process gets when its parent thread ends."""

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
"""Numbers of the Landlock system calls, the same on every architecture."""

WRITE_FILE, READ_FILE, READ_FOLDER = 1 << 1, 1 << 2, 1 << 3
"""Landlock access rights."""

CHANGES = WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Landlock rights to write files, to remove files and directories, and to create files of any kind."""

LATER = ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
"""Rights added by later Landlock versions, as (version, right): move between directories, truncate, device ioctl."""

CONNECTIONS, SCOPES = 0b11, 0b11
"""Landlock network rights (bind and connect TCP) and scopes (abstract sockets, signals to processes outside)."""

WRITES = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
"""Flags of open(2) that write: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_TMPFILE."""

DUPLICATE, GET_FLAGS, SET_FLAGS, GET_STATUS, DUPLICATE_CLOSED = 0, 1, 2, 3, 1030
"""fcntl(2) commands that are allowed. Others send signals (F_SETOWN) or take memory (F_SETPIPE_SZ)."""

HARMLESS = """
    read write readv writev pread64 close fstat newfstatat stat lstat statx lseek getdents64 access faccessat faccessat2
    readlink readlinkat getcwd dup dup2 dup3 pipe pipe2 poll ppoll select pselect6 mmap munmap mprotect mremap madvise
    brk rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack alarm setitimer getitimer pause restart_syscall futex
    set_robust_list rseq gettid getpid getppid getuid geteuid getgid getegid getgroups getpgrp getpgid getsid
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrandom uname sysinfo getrusage
    getrlimit sched_yield sched_getaffinity getcpu arch_prctl exit exit_group umask membarrier
"""
"""Calls to read, compute, wait and exit; none takes memory that RLIMIT_AS does not count."""

REACHING = """
    fork vfork execve execveat kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd
    ptrace process_vm_readv process_vm_writev process_madvise socket connect bind chmod fchmod fchmodat fchmodat2 chown
    fchown lchown fchownat utime utimes utimensat futimesat setxattr lsetxattr fsetxattr removexattr lremovexattr
    fremovexattr setxattrat removexattrat file_setattr unshare setns mount umount2 pivot_root chroot bpf perf_event_open
    io_uring_setup userfaultfd keyctl add_key request_key shmget msgget mq_open setpriority ioprio_set open_by_handle_at
    init_module finit_module kexec_load kexec_file_load reboot swapon settimeofday clock_settime adjtimex clock_adjtime
    sethostname setdomainname
"""
"""Calls that reach other processes, the network, a file's attributes or the machine."""


def bound_memory(memory: int) -> None:
    """Limit this process's private writable memory to `memory` bytes, and forbid file writes and core dumps."""
    bound(resource.RLIMIT_DATA if platform.system() == "Linux" else resource.RLIMIT_AS, memory)
    bound(resource.RLIMIT_FSIZE, 0)
    bound(resource.RLIMIT_CORE, 0)


def bound(what: int, most: int) -> None:
    """Set a resource limit (RLIMIT_*) of this process, if the system supports it."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (most, most))


def leave_network() -> bool:
    """Enter a network namespace without interfaces. Return whether that worked.

    A user namespace is created only if it is needed, because in one root cannot read other users' files.
    """
    if platform.system() != "Linux":
        return False
    unshare = _library().unshare
    return bool(unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def keep_to_itself() -> bool:
    """Give up the calls in `REACHING`, which reach beyond this process. Return whether that worked."""
    threads = {"clone": containing(0, CLONE_THREAD), "clone3": UNKNOWN}
    own = {"prlimit64": null(0)}
    return give_up({**dict.fromkeys(REACHING.split(), REFUSED), **threads, **own}, ALLOWED)


def only_compute() -> bool:
    """Give up all system calls except those to read files, compute and exit. Return whether that worked.

    The process can start no process or thread, open no socket, and open no file for writing. It can read its resource
    limits.
    """
    some = {
        "open": without(1, WRITES),
        "openat": without(2, WRITES),
        "fcntl": only(1, (DUPLICATE, GET_FLAGS, SET_FLAGS, GET_STATUS, DUPLICATE_CLOSED)),
        "prlimit64": null(0, 2),
    }
    return give_up({**dict.fromkeys(HARMLESS.split(), ALLOWED), **some}, REFUSED)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends. `parent` is the parent's process id."""
    if platform.system() == "Linux":
        _library().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def stop_writing(readable: Iterable[str] | None = None) -> bool:
    """Give up the right to write, create and remove files (Landlock). Return whether that worked.

    With `readable`, files can be read only at and below these paths. Newer versions of Landlock also forbid TCP,
    abstract sockets and signals to other processes.
    """
    if platform.system() != "Linux":
        return False
    library = _library()
    version = library.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    changes = CHANGES | sum(right for since, right in LATER if version >= since)
    handled = changes if readable is None else changes | READ_FILE | READ_FOLDER
    attributes = struct.pack("=QQQ", handled, CONNECTIONS, SCOPES)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = library.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    _allow(library, rules, os.devnull, WRITE_FILE | (READ_FILE & handled))
    for path in readable or ():
        rights = READ_FILE | READ_FOLDER if os.path.isdir(path) else READ_FILE  # noqa: PTH112 - saves importing pathlib
        _allow(library, rules, path, rights)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    restricted: int = library.syscall(LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)
    return restricted == 0


def _allow(library: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    """Keep rights to a file, or to everything below a directory. A missing path is skipped."""
    with contextlib.suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        library.syscall(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", rights, place), 0)
        os.close(place)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

"""What a process gives up before it works on what it does not trust: memory, the network, files, other processes.

Each step is tried, and says whether it holds: systems differ in what they offer. None needs a privilege, and all hold
for root as for anyone.
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

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
"""System calls that have these numbers on every architecture."""

WRITE_FILE, READ_FILE, READ_FOLDER = 1 << 1, 1 << 2, 1 << 3

CHANGES = WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Landlock's rights to write a file, to remove one or a directory, and to make any kind of file."""

LATER = ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
"""Rights that came with a version of Landlock: to move between directories, to cut short, to control a device."""

CONNECTIONS, SCOPES = 0b11, 0b11
"""To bind and connect TCP ports; to reach abstract sockets and to signal processes outside."""

WRITES = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
"""Flags of open: for writing, reading and writing, creating, cutting short, appending, a file without a name."""

DUPLICATE, GET_FLAGS, SET_FLAGS, GET_STATUS, DUPLICATE_CLOSED = 0, 1, 2, 3, 1030
"""What fcntl may do. Others send signals (F_SETOWN) or take memory (F_SETPIPE_SZ)."""

HARMLESS = """
    read write readv writev pread64 close fstat newfstatat stat lstat statx lseek getdents64 access faccessat faccessat2
    readlink readlinkat getcwd dup dup2 dup3 pipe pipe2 poll ppoll select pselect6 mmap munmap mprotect mremap madvise
    brk rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack alarm setitimer getitimer pause restart_syscall futex
    set_robust_list rseq gettid getpid getppid getuid geteuid getgid getegid getgroups getpgrp getpgid getsid
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrandom uname sysinfo getrusage
    getrlimit sched_yield sched_getaffinity getcpu arch_prctl exit exit_group umask membarrier
"""
"""Calls that read, compute, wait and end, and take no memory that RLIMIT_AS does not count."""

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
    """Bound this process's private writable memory, in bytes; it writes no file and leaves no core file."""
    bound(resource.RLIMIT_DATA if platform.system() == "Linux" else resource.RLIMIT_AS, memory)
    bound(resource.RLIMIT_FSIZE, 0)
    bound(resource.RLIMIT_CORE, 0)


def bound(what: int, most: int) -> None:
    """Set one of the system's limits for this process, as far as it has it."""
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


def keep_to_itself() -> bool:
    """Give up what reaches beyond this process and its threads: see `REACHING`. Whether that holds."""
    threads = {"clone": containing(0, CLONE_THREAD), "clone3": UNKNOWN}
    own = {"prlimit64": null(0)}
    return give_up({**dict.fromkeys(REACHING.split(), REFUSED), **threads, **own}, ALLOWED)


def only_compute() -> bool:
    """Give up every system call that a Python program does not need to read, compute and end. Whether that holds.

    No process, no thread, no socket, no file opened for writing; resource limits may be read.
    """
    some = {
        "open": without(1, WRITES),
        "openat": without(2, WRITES),
        "fcntl": only(1, (DUPLICATE, GET_FLAGS, SET_FLAGS, GET_STATUS, DUPLICATE_CLOSED)),
        "prlimit64": null(0, 2),
    }
    return give_up({**dict.fromkeys(HARMLESS.split(), ALLOWED), **some}, REFUSED)


def die_with(parent: int) -> None:
    """Be killed when the thread that started this process ends, `parent` being its process."""
    if platform.system() == "Linux":
        _library().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def stop_writing(readable: Iterable[str] | None = None) -> bool:
    """Give up the right to write, make and remove files (Landlock). Whether that holds.

    With `readable`, files are read below these paths alone. Where this Landlock knows more, TCP, abstract sockets and
    signals to other processes are given up too.
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
    _except(library, rules, os.devnull, WRITE_FILE | (READ_FILE & handled))
    for path in readable or ():
        rights = READ_FILE | READ_FOLDER if os.path.isdir(path) else READ_FILE  # noqa: PTH112 - one import less
        _except(library, rules, path, rights)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    restricted: int = library.syscall(LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)
    return restricted == 0


def _except(library: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    """Leave rights to a file, or to all below a directory; what is not there needs none."""
    with contextlib.suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        library.syscall(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", rights, place), 0)
        os.close(place)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

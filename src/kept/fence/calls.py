"""Seccomp filters: a process gives up system calls for itself and all its children, even as root.

A filter is a small BPF program in the kernel. It sees the number of a call and the raw arguments, not the memory that
pointers refer to. Numbers differ between architectures; on one that is not listed here no filter is set.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Instruction = tuple[int, int, int, int]
    Rule = tuple[Instruction, ...]

LOAD, EQUAL, ANY_BIT, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
"""BPF opcodes: load a word of the call; jump if it equals, shares a bit with, or is at least a constant; return."""

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
"""Return values of a filter. REFUSE carries an errno in its low 16 bits."""

NUMBER, MACHINE, ARGUMENTS = 0, 4, 16
"""Byte offsets within `struct seccomp_data`: the call's number, the architecture, the arguments (8 bytes each)."""

MACHINES: Mapping[str, tuple[int, int]] = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}
"""Audit code of each architecture, and its column in `CALLS`."""

OTHER_TABLE = 0x40000000
"""First number of the x32 calls of x86-64, a second table for 32-bit pointers."""

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2

CLONE_THREAD = 0x10000

CALLS = """
read 0 63 | write 1 64 | readv 19 65 | writev 20 66 | pread64 17 67 | close 3 57 | fstat 5 80 | newfstatat 262 79
stat 4 - | lstat 6 - | statx 332 291 | lseek 8 62 | open 2 - | openat 257 56 | getdents64 217 61 | access 21 -
faccessat 269 48 | faccessat2 439 439 | readlink 89 - | readlinkat 267 78 | getcwd 79 17 | fcntl 72 25 | dup 32 23
dup2 33 - | dup3 292 24 | pipe 22 - | pipe2 293 59 | poll 7 - | ppoll 271 73 | select 23 - | pselect6 270 72
mmap 9 222 | munmap 11 215 | mprotect 10 226 | mremap 25 216 | madvise 28 233 | brk 12 214 | rt_sigaction 13 134
rt_sigprocmask 14 135 | rt_sigreturn 15 139 | sigaltstack 131 132 | alarm 37 - | setitimer 38 103 | getitimer 36 102
pause 34 - | restart_syscall 219 128 | futex 202 98 | set_robust_list 273 99 | rseq 334 293 | gettid 186 178
getpid 39 172 | getppid 110 173 | getuid 102 174 | geteuid 107 175 | getgid 104 176 | getegid 108 177
getgroups 115 158 | getpgrp 111 - | getpgid 121 155 | getsid 124 156 | clock_gettime 228 113 | clock_getres 229 114
clock_nanosleep 230 115 | nanosleep 35 101 | gettimeofday 96 169 | time 201 - | times 100 153 | getrandom 318 278
uname 63 160 | sysinfo 99 179 | getrusage 98 165 | getrlimit 97 163 | prlimit64 302 261 | sched_yield 24 124
sched_getaffinity 204 123 | getcpu 309 168 | arch_prctl 158 - | exit 60 93 | exit_group 231 94 | umask 95 166
membarrier 324 283 | clone 56 220 | clone3 435 435 | fork 57 - | vfork 58 - | execve 59 221 | execveat 322 281
kill 62 129 | tkill 200 130 | rt_sigqueueinfo 129 138 | rt_tgsigqueueinfo 297 240 | pidfd_open 434 434
pidfd_send_signal 424 424 | pidfd_getfd 438 438 | ptrace 101 117 | process_vm_readv 310 270
process_vm_writev 311 271 | process_madvise 440 440 | socket 41 198 | connect 42 203 | bind 49 200 | chmod 90 -
fchmod 91 52 | fchmodat 268 53 | fchmodat2 452 452 | chown 92 - | fchown 93 55 | lchown 94 - | fchownat 260 54
utime 132 - | utimes 235 - | utimensat 280 88 | futimesat 261 - | setxattr 188 5 | lsetxattr 189 6 | fsetxattr 190 7
removexattr 197 14 | lremovexattr 198 15 | fremovexattr 199 16 | setxattrat 463 463 | removexattrat 466 466
file_setattr 469 469 | unshare 272 97 | setns 308 268 | mount 165 40 | umount2 166 39 | pivot_root 155 41
chroot 161 51 | bpf 321 280 | perf_event_open 298 241 | io_uring_setup 425 425 | userfaultfd 323 282
keyctl 250 219 | add_key 248 217 | request_key 249 218 | shmget 29 194 | msgget 68 186 | mq_open 240 180
setpriority 141 140 | ioprio_set 251 30 | open_by_handle_at 304 265 | init_module 175 105 | finit_module 313 273
kexec_load 246 104 | kexec_file_load 320 294 | reboot 169 142 | swapon 167 224 | settimeofday 164 170
clock_settime 227 112 | adjtimex 159 171 | clock_adjtime 305 266 | sethostname 170 161 | setdomainname 171 162
"""
"""Number of each system call on x86-64 and aarch64; `-` if the architecture has no such call."""

ALLOWED: Rule = ((RETURN, 0, 0, ALLOW),)
REFUSED: Rule = ((RETURN, 0, 0, REFUSE | errno.EACCES),)
UNKNOWN: Rule = ((RETURN, 0, 0, REFUSE | errno.ENOSYS),)
"""Refuse with ENOSYS, as an older kernel does, so that libraries fall back to an older call."""


def only(argument: int, values: Iterable[int]) -> Rule:
    """Return a rule that allows a call if the argument is one of `values`."""
    tests = [((EQUAL, 0, 1, value), *ALLOWED) for value in values]
    return (_low(argument), *(one for test in tests for one in test), *REFUSED)


def without(argument: int, bits: int) -> Rule:
    """Return a rule that allows a call if the argument has none of `bits`."""
    return (_low(argument), (ANY_BIT, 1, 0, bits), *ALLOWED, *REFUSED)


def containing(argument: int, bit: int) -> Rule:
    """Return a rule that allows a call if the argument has `bit`."""
    return (_low(argument), (ANY_BIT, 0, 1, bit), *ALLOWED, *REFUSED)


def null(*arguments: int) -> Rule:
    """Return a rule that allows a call if these arguments are all 0."""
    words = [ARGUMENTS + 8 * argument + half for argument in arguments for half in (0, 4)]
    tests = [((LOAD, 0, 0, word), (EQUAL, 0, 2 * (len(words) - n) - 1, 0)) for n, word in enumerate(words)]
    return (*(one for test in tests for one in test), *ALLOWED, *REFUSED)


def _low(argument: int) -> Instruction:
    return LOAD, 0, 0, ARGUMENTS + 8 * argument


def give_up(rules: Mapping[str, Rule], others: Rule) -> bool:
    """Install a filter: `rules` by name of the call, `others` for all other calls. Return whether the kernel took it.

    The filter holds for this thread and for threads and processes that it starts later, so call this before any start.
    """
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in MACHINES or sys.byteorder != "little":
        return False
    instructions = b"".join(struct.pack("=HBBI", *one) for one in program(machine, rules, others))
    text = ctypes.create_string_buffer(instructions)
    length = len(instructions) // 8
    library = ctypes.CDLL(None, use_errno=True)
    packed = struct.pack("@HP", length, ctypes.addressof(text))
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(library.prctl(PR_SET_SECCOMP, FILTER, packed, 0, 0) == 0)


def program(machine: str, rules: Mapping[str, Rule], others: Rule) -> list[Instruction]:
    """Return the instructions of the filter for an architecture."""
    name, column = MACHINES[machine]
    numbers = table(column)
    out = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, name), (RETURN, 0, 0, KILL)]
    out += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, OTHER_TABLE), *REFUSED]
    for call, rule in rules.items():
        if call in numbers:
            out += [(EQUAL, 0, len(rule), numbers[call]), *rule]
    return [*out, *others]


def table(column: int) -> dict[str, int]:
    """Return the numbers of system calls by name, from a column of `CALLS`."""
    entries = [entry.split() for line in CALLS.strip().splitlines() for entry in line.split("|")]
    return {entry[0]: int(entry[column]) for entry in entries if entry[column] != "-"}

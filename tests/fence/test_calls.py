"""System call numbers equal the kernel's, and compiled filters follow their rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kept.fence.calls import ALLOWED, MACHINES, REFUSED, null, only, program, table, without
from kept.fence.isolation import HARMLESS, REACHING

HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"#define __NR_(\w+) (\d+)"),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"#define __NR(?:3264)?_(\w+) (\d+)"),
}
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x0005000D, 0x80000000


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernel_s(machine: str) -> None:
    header, pattern = HEADERS[machine]
    if not header.is_file():
        pytest.skip("no headers of the kernel")
    theirs = {name: int(number) for name, number in re.findall(pattern, header.read_text())}
    theirs |= {"newfstatat": theirs["fstatat"]} if "fstatat" in theirs else {}
    ours = table(MACHINES[machine][1])
    known = {name: number for name, number in ours.items() if name in theirs}
    assert len(known) > len(ours) - 12, "the others are younger than the headers"
    assert known == {name: theirs[name] for name in known}


@pytest.mark.parametrize("calls", [HARMLESS, REACHING])
def test_every_name_is_in_the_table(calls: str) -> None:
    assert set(calls.split()) <= set(table(1))


def _run(machine: str, number: int, *arguments: int, name: int | None = None) -> int:
    """Interpret a BPF filter; return its verdict on a system call."""
    rules = {"read": ALLOWED, "openat": without(2, 3), "fcntl": only(1, (0, 1030)), "prlimit64": null(0, 2)}
    words = {0: number, 4: MACHINES[machine][0] if name is None else name}
    for place, value in enumerate((*arguments, 0, 0, 0, 0)):
        words |= {16 + 8 * place: value & 0xFFFFFFFF, 20 + 8 * place: value >> 32}
    at, held = 0, 0
    instructions = program(machine, rules, REFUSED)
    while True:
        code, yes, no, constant = instructions[at]
        at += 1
        if code == 0x06:
            return constant
        if code == 0x20:
            held = words[constant]
            continue
        holds = {0x15: held == constant, 0x45: bool(held & constant), 0x35: held >= constant}[code]
        at += yes if holds else no


@pytest.mark.parametrize("machine", MACHINES)
def test_a_filter_says_what_its_rules_say(machine: str) -> None:
    at = table(MACHINES[machine][1])
    assert _run(machine, at["read"]) == ALLOW
    assert _run(machine, at["write"]) == REFUSE
    assert _run(machine, at["openat"], 0, 0, 0o100000) == ALLOW
    assert _run(machine, at["openat"], 0, 0, 0o100002) == REFUSE
    assert [_run(machine, at["fcntl"], 0, command) for command in (0, 1030, 8)] == [ALLOW, ALLOW, REFUSE]
    assert [_run(machine, at["prlimit64"], *a) for a in ((0, 7, 0), (0, 7, 1 << 32), (1, 7, 0), (1 << 40, 7, 0))] == [
        ALLOW,
        REFUSE,
        REFUSE,
        REFUSE,
    ]
    assert _run(machine, at["read"] | 0x40000000) == REFUSE
    assert _run(machine, at["read"], name=0x40000003) == KILL

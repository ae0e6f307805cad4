"""The sandbox for generated code: correct programs pass, others fail, and each limit holds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader
import pytest

import kept
from kept.errors import InputError
from kept.evaluation import sandbox
from kept.evaluation.documents import json_lines
from kept.evaluation.humaneval import program, score
from kept.evaluation.sandbox import fences, passes
from support.shared_data import DATA, needs_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NOBODY = 65534


@pytest.mark.parametrize(
    "code", ["x = 1", "assert sorted([2, 1]) == [1, 2]", "print('passed', flush=True)", "import math"]
)
def test_code_that_runs_passes(code: str) -> None:
    assert passes(code)


@pytest.mark.parametrize(
    "code",
    [
        "assert False",
        "1 / 0",
        "def broken(",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "print('passed'); raise SystemExit",
        "x = [0] * (1 << 40)",
        "import os; os.kill(os.getpid(), 9)",
        "import ctypes; ctypes.string_at(0)",
        "import threading; threading.Thread(target=print).start()",
        "x = '\\ud800'; assert False",
    ],
)
def test_code_that_does_not_end_well_fails(code: str) -> None:
    assert not passes(code)


EVERYWHERE = "import os\nfor fd in range(64):\n try: os.write(fd, {0})\n except OSError: pass\n{1}"


@pytest.mark.parametrize("text", ["b'passed'", "bytes(32)", "b'x' * 32", "b'x' * 33", "b'x' * 1000000"])
@pytest.mark.parametrize("end", ["os._exit(0)", "raise SystemExit", ""])
def test_nothing_written_anywhere_passes(text: str, end: str) -> None:
    assert not passes(EVERYWHERE.format(text, end))


def test_unlimited_output_is_stopped_and_fills_no_memory() -> None:
    begun = time.monotonic()
    assert not passes("while True:\n" + " " + EVERYWHERE.format("bytes(1 << 16)", "").replace("\n", "\n "), seconds=20)
    assert time.monotonic() - begun < 15, "not twenty seconds of processor time"


def test_the_token_is_not_in_memory_while_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program searches all objects of the garbage collector and its own frames."""
    monkeypatch.setattr("kept.evaluation.sandbox.secrets.token_bytes", lambda count: b"\xab" * count)
    seen = "any(isinstance(o, bytes) and b'\\xab' * 32 in o for o in found)"
    look = "import gc, sys\nfound = [v for o in gc.get_objects() if isinstance(o, dict) for v in list(o.values())]\n"
    frames = "f = sys._getframe()\nwhile f: found += f.f_locals.values(); f = f.f_back\n"
    assert passes(f"{look}{frames}assert not {seen}")
    assert not passes(f"x = bytes([171] * 32)\n{look}assert not {seen}"), "the search finds what is there"


def test_code_without_end_is_ended() -> None:
    begun = time.monotonic()
    assert not passes("while True: pass", seconds=1)
    assert not passes("import time; time.sleep(60)", seconds=1)
    assert time.monotonic() - begun < 30, "not a minute"


def test_memory_is_bounded() -> None:
    assert passes("x = bytearray(100 << 20)")
    assert not passes("x = bytearray(2000 << 20)")


# ---------------------------------------------------------------------------------------- limits, as root and as nobody

LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\ndef call(*a):\n if libc.syscall(*a) < 0: raise OSError"

HARMS: Mapping[str, str] = {
    "signal the parent": "import os; os.kill(os.getppid(), 0)",
    "signal its group": "import os; os.killpg(os.getpgrp(), 0)",
    "signal by fcntl": "import fcntl, os; a, b = os.pipe(); fcntl.fcntl(a, fcntl.F_SETOWN, os.getppid())",
    "limit the parent": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (99999, 99999))",
    "slow the parent": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "trace the parent": f"import os\n{LIBC}\ncall({{ptrace}}, 0x4206, os.getppid(), 0, 0)",
    "outlive the parent": f"{LIBC}\nif libc.prctl(1, 0, 0, 0, 0): raise OSError",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "fork": "import os\nif not os.fork(): os._exit(0)",
    "a daemon": "import subprocess; subprocess.Popen(['/bin/true'], start_new_session=True).wait()",
    "a program": "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
    "a thread": "import threading; threading.Thread(target=int).start()",
    "a socket": "import socket; socket.socket()",
    "a local socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a ring": f"{LIBC}\ncall(425, 2, ctypes.create_string_buffer(200))",
    "memory of the kernel": f"{LIBC}\ncall({{shmget}}, 0, 1 << 20, 0o1600)",
    "a file in memory": "import os; os.memfd_create('x')",
    "larger pipes": "import fcntl, os; a, b = os.pipe(); fcntl.fcntl(b, 1031, 1 << 20)",
    "write": "open({file!r}, 'r+').close()",
    "append": "open({file!r}, 'a').close()",
    "make": "open({folder!r} + '/new', 'w').close()",
    "make in memory": "import os; p = f'/dev/shm/kept-{{os.getpid()}}'; open(p, 'w').close(); os.remove(p)",
    "a file without a name": "import os; os.close(os.open({folder!r}, os.O_TMPFILE | os.O_RDWR))",
    "a directory": "import os; os.mkdir({folder!r} + '/d')",
    "a link": "import os; os.symlink('x', {folder!r} + '/l')",
    "rename": "import os; os.rename({file!r}, {file!r} + '2'); os.rename({file!r} + '2', {file!r})",
    "cut short": "import os; os.truncate({file!r}, 3)",
    "a mode": "import os; os.chmod({file!r}, 0o666)",
    "a date": "import os; os.utime({file!r})",
    "read": "open({file!r}).read()",
    "list": "import os; os.listdir({folder!r})",
    "an environment": "import os; open(f'/proc/{{os.getppid()}}/environ', 'rb').read()",
    "its own memory": "open('/proc/self/maps').read()",
    "a device": "open('/dev/tty' if 0 else '/dev/full', 'rb').close()",
    "remove": "import os; os.remove({file!r})",
}
"""Programs that break one limit each; in the sandbox each must raise."""

EACH = """
import json, sys
broken = []
for name, harm in HARMS.items():
    try:
        exec(harm, {})
    except (OSError, RuntimeError, ValueError, AttributeError):
        continue
    broken.append(name)
"""


@pytest.fixture(scope="module")
def copied() -> Iterator[Path]:
    """A copy of the package that every user can read."""
    place = Path(tempfile.mkdtemp(prefix="kept-test-"))
    shutil.copytree(Path(kept.__file__).parent, place / "kept", ignore=shutil.ignore_patterns("__pycache__", "demo"))
    shutil.copytree(Path(lazy_loader.__file__).parent, place / "lazy_loader")  # what importing kept needs
    shutil.copy(Path(__file__).parent / "jail_runner.py", place)
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def _run(place: Path, user: int, *command: str, given: str = "") -> str:
    found = subprocess.run(
        [*_python_of(user), *command], input=given, capture_output=True, text=True, cwd="/", check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@cache
def _python_of(user: int) -> list[str]:
    """Return the command with which a user runs Python; skips the test if there is none."""
    drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user != os.getuid() else []
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        test = [*drop, python, "-c", "import sys; assert sys.version_info >= (3, 11); open(sys.executable).close()"]
        if subprocess.run(test, capture_output=True, cwd="/", check=False).returncode == 0:
            return [*drop, python]
    pytest.skip("no Python that this user may run")


@pytest.fixture(params=[0, NOBODY], ids=["root", "nobody"])
def user(request: pytest.FixtureRequest) -> int:
    """The user id under which the sandbox runs."""
    if request.param != os.getuid() and (os.getuid() != 0 or shutil.which("setpriv") is None):
        pytest.skip("only root becomes others")
    return int(request.param)


@pytest.fixture
def harms(copied: Path, user: int) -> Mapping[str, str]:
    """The programs of HARMS for a directory and a file that the user owns."""
    folder = copied / f"of-{user}"
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("mine")
    for one in (folder, folder / "file"):
        os.chown(one, user, user)
    numbers = {"x86_64": (101, 29), "aarch64": (117, 194)}[os.uname().machine]
    given = {"folder": str(folder), "file": str(folder / "file"), "ptrace": numbers[0], "shmget": numbers[1]}
    return {name: harm.format(**given) for name, harm in HARMS.items()}


def test_each_bound_holds(copied: Path, user: int, harms: Mapping[str, str]) -> None:
    together = f"HARMS = {dict(harms)!r}\n{EACH}\nassert not broken"
    programs = [together, *(f"HARMS = { ({name: harm})!r}\n{EACH}\nassert not broken" for name, harm in harms.items())]
    script = str(copied / "jail_runner.py")
    held = json.loads(_run(copied, user, script, str(copied), given=json.dumps(programs[:1])))
    if held != [True]:
        each = json.loads(_run(copied, user, script, str(copied), given=json.dumps(programs)))
        assert [name for name, held in zip(harms, each[1:], strict=True) if not held] == []
    assert Path(copied / f"of-{user}" / "file").read_text() == "mine"
    assert [one.name for one in (copied / f"of-{user}").iterdir()] == ["file"]


def test_without_the_fence_they_do_not_hold(copied: Path, user: int, harms: Mapping[str, str]) -> None:
    """Negative control: outside the sandbox the programs succeed, except for two that some systems refuse."""
    script = f"HARMS = {dict(harms)!r}\n{EACH}\nprint(json.dumps(broken))"
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    left = set(harms) - set(json.loads(_run(copied, user, "-c", parent, script)))
    assert left <= {"a ring", "trace the parent"}, left


def test_the_bounds_are_tried(copied: Path, user: int) -> None:
    found = json.loads(_run(copied, user, str(copied / "jail_runner.py"), str(copied), given="[]"))
    assert set(found) == set(sandbox.BREAKS)
    assert all(found.values())


def test_what_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    start = "from kept.evaluation import jail; jail.only_compute = jail.stop_writing = lambda *_: False"
    call = "import sys; jail.main(*sys.argv[1:])"
    monkeypatch.setattr(sandbox, "JAIL", [sys.executable, "-I", "-c", f"{start}; {call}"])
    with pytest.raises(InputError, match=r"does not keep generated code from .*reading files.* or --unsafe"):
        fences()
    assert fences(unsafe=True)["memory"]
    assert not fences(unsafe=True)["reading files"]


def test_a_sandbox_that_cannot_run_is_an_error_and_not_a_score_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "JAIL", [sys.executable, "-I", "-c", "raise SystemExit"])
    with pytest.raises(InputError, match="does not start"):
        fences(unsafe=True)


def test_it_ends_with_its_evaluator(tmp_path: Path) -> None:
    script = "from kept.evaluation.sandbox import passes; print(flush=True); passes('while True: pass', seconds=60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        _until(lambda: children.read_text().strip())
        (child,) = map(int, children.read_text().split())
        time.sleep(0.3)
        parent.send_signal(signal.SIGKILL)
    _until(lambda: not _runs(child))


def _until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    assert passes("import os; assert 'A_SECRET' not in os.environ")


# ---------------------------------------------------------------------------------------------------------- humaneval


@needs_data
def test_humaneval_s_own_solutions_pass() -> None:
    problems = [*json_lines(DATA / "evals" / "humaneval" / "HumanEval.jsonl.gz")]
    assert len(problems) == 164
    for problem in problems[:12]:
        assert score(problem, [problem["canonical_solution"]]) == {"pass@1": 1.0}
        assert score(problem, ["    return None\n"]) == {"pass@1": 0.0}


def test_a_program_is_prompt_answer_and_tests() -> None:
    document = {"prompt": "def f():\n", "test": "def check(g):\n    assert g() == 3\n", "entry_point": "f"}
    assert passes(program(document, "    return 3"))
    assert not passes(program(document, "    return 4"))

"""Run programs in the sandbox as the current user: `python jail_runner.py DIRECTORY < programs.json`.

DIRECTORY contains a copy of the package that the user can read. Prints JSON: for each program whether it passed, or,
without programs, for each limit whether it holds.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])

from kept.evaluation import sandbox

START = f"import sys; sys.path.insert(0, {sys.argv[1]!r}); from kept.evaluation.jail import main; main(*sys.argv[1:])"
sandbox.JAIL[:] = [sys.executable, "-I", "-c", START]

if __name__ == "__main__":
    programs = json.load(sys.stdin)
    sys.stdout.write(json.dumps([sandbox.passes(one) for one in programs] if programs else sandbox.fences()))

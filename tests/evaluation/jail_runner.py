"""Runs programs in the sandbox for the tests, as any user: `python jail_runner.py DIRECTORY < programs.json`.

DIRECTORY has a copy of the package that the user can read.
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

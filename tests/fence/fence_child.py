"""The fenced process with the directory of the tests' target on its path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kept.fence.child import main

main(*sys.argv[1:])

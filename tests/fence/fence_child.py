"""The fenced process, where the tests' target can be imported."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kept.fence.child import main

main(*sys.argv[1:])

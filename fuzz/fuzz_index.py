"""Atheris on the target `index`: python fuzz/fuzz_index.py -max_total_time=60."""

from harness import fuzz

fuzz("index")

"""Atheris on the target `header`: python fuzz/fuzz_header.py -max_total_time=60."""

from harness import fuzz

fuzz("header")

"""Atheris on the target `record`: python fuzz/fuzz_record.py -max_total_time=60."""

from harness import fuzz

fuzz("record")

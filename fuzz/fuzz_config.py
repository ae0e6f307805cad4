"""Atheris on the target `config`: python fuzz/fuzz_config.py -max_total_time=60."""

from harness import fuzz

fuzz("config")

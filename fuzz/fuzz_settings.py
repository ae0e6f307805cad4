"""Atheris on the target `settings`: python fuzz/fuzz_settings.py -max_total_time=60."""

from harness import fuzz

fuzz("settings")

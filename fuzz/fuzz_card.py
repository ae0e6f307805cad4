"""Atheris on the target `card`: python fuzz/fuzz_card.py -max_total_time=60."""

from harness import fuzz

fuzz("card")

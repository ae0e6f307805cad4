"""Atheris on the target `sentencepiece`: python fuzz/fuzz_sentencepiece.py -max_total_time=60."""

from harness import fuzz

fuzz("sentencepiece")

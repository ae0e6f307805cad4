"""Atheris on the target `tokenizer`: python fuzz/fuzz_tokenizer.py -max_total_time=60."""

from harness import fuzz

fuzz("tokenizer")

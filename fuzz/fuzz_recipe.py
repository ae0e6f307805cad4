"""Atheris on the target `recipe`: python fuzz/fuzz_recipe.py -max_total_time=60."""

from harness import fuzz

fuzz("recipe")

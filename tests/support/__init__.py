"""Helpers of several tests: models, specs, contracts and substitutes."""

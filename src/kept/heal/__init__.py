"""Distillation: what a conversion could not keep exactly is learned from the source."""

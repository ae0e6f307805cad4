"""Healing: what a conversion could not keep exactly is learned from its source."""

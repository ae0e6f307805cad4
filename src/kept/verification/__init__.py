"""Measuring what a conversion kept."""

"""Measurements of how close a conversion is to its source."""

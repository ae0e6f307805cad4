"""Compression of branches: calibration that streams a model's layers, and what replaces their operations."""

"""Predict the memory, speed, duration and price of a healing run from the specs of its models. Needs no torch."""

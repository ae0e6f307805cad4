"""Checkpoint directories: reading headers, writing shards, and what goes along."""

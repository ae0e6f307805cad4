"""Truncated latent attention: statistics, rotary components, low rank, ranks and the refit."""

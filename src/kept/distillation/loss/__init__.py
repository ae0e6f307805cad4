"""Distillation losses on logits and hidden states, in chunks of tokens."""

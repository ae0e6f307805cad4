"""Tokenizers that grow: trained on new text, merged into a model's own, and compared with it."""

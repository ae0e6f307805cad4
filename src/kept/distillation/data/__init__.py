"""Texts as token batches: documents, conversations, tokenization, mixtures and packing."""

"""Vocabulary expansion: train a tokenizer on new text, merge it into a model's, and compare the two."""

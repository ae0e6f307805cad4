"""Checkpoint directories: headers, shards, and the files beside them, such as tokenizer and licence."""

"""Train a converted model on the outputs of its source, or on text."""

"""Files of an output: weights, record (kept.json) and model card."""

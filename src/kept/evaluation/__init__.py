"""Evaluation of checkpoints: perplexity, long context, benchmark tasks and generated answers, with standard errors."""

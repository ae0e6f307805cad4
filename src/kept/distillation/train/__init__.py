"""The training loop: schedule, checkpoints, metrics, ranks and trainable parameters."""

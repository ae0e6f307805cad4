"""Read quantised safetensors checkpoints: their weights are dequantised in blocks of rows while they are read."""

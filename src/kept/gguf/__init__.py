"""Read GGUF files, llama.cpp's format, as checkpoints of the model families that they were converted from."""

"""GGUF files, llama.cpp's own format: read as checkpoints of the families that they were made from."""

"""The architecture as a value: specs, slots, facts, lazy tensors, programs."""

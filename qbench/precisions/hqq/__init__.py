"""Half-quadratic quantization, by its own package."""

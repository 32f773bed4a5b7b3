"""Checkpoints that are already quantized: by which method, as what they are held, checked how."""

"""Loaded models as checkpoints that other programs load: one module a library."""

"""Shapes of a model's tensors, without loading it."""

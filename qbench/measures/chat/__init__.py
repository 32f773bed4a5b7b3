"""Divergence from the reference on answers that the reference wrote itself."""

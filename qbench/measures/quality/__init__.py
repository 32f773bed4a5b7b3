"""Perplexity and divergence from the reference, in one pass over a text."""

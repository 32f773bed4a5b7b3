"""Weights that are held as floating-point codes of 8 or 4 bits, with scales, through torchao."""

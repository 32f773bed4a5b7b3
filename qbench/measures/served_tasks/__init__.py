"""lm-eval's tasks put to servers of a cell's model."""

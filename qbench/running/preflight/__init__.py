"""The look at the machine before the first cell."""

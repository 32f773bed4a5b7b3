"""How a forward pass runs when it is timed."""

"""What holding one layer, one block or one kind of layer in a format costs, and nothing else."""

"""What fine-tuning cost and gained: tables, curves and words."""

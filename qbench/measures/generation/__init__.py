"""Generations from prompts, and their scores against references."""

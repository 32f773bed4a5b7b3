"""Texts, prompts and instruction data: which are meant, and reading them."""

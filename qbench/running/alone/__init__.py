"""Processes that build a cell's model for themselves, for what is measured from outside."""

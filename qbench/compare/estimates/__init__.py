"""Estimates with their intervals: numbers in, numbers out, no records."""

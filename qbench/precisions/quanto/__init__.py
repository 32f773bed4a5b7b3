"""Integers and E4M3 as quanto has them, by its own package."""

"""Mixes: models whose layers are held in several precisions, by hand or as measured damage says."""

"""The integer precisions: their grids, their calibration, their layers."""

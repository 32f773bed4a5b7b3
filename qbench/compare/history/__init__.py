"""Series of measurements over commits and package versions: where they changed, and what with."""

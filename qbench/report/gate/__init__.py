"""The outcome of a gate: as a page, for GitHub, as JUnit XML."""

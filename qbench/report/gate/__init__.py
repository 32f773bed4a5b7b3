"""The outcome of a gate: on the terminal, for GitHub, as JUnit XML."""

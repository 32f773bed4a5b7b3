"""The history of a suite, as pages and rows."""

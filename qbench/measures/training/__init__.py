"""A training as a measurement: what it costs and what it gains."""

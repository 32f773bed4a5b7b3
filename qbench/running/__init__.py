"""From a plan to records: the look at the machine, and the worker processes."""

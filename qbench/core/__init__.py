"""The values that everything hands on, the machine, and words for people."""

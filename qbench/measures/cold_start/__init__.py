"""Cold start: from the start of a process to its first token, phase by phase."""

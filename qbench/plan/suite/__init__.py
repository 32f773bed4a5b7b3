"""What the user asked for: a suite's YAML file, or all its problems."""

"""What ships with qbench so that it runs with no network: a small model and held-out text."""

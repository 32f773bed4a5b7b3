"""Models: found on disk or a hub, and their configuration and headers read."""

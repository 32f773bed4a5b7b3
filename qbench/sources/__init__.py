"""Where a model and the texts come from: found, described and fetched, without torch."""

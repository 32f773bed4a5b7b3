"""From a suite's file to jobs. No torch; all problems at once."""

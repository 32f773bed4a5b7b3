"""Scores of tasks as the command `lm_eval --output_path` leaves them."""

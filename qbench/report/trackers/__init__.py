"""Records, sent to a tracker of experiments as they are taken: what is sent, how, and by whom."""

"""The linear layers by themselves: how long each size takes, and by which kernel."""

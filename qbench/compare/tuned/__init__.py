"""Tuned cells as arms, and changes between them.

arms     what the seeds of one tuning share, and how it is served
changes  of the test loss and of neutral texts, several seeds as one
"""

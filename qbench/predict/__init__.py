"""Peaks by arithmetic: what a model takes in inference and in training, before anything is loaded.

Nothing here imports torch. Operations are listed on the tape of `qbench.predict.tape`,
whose bytes the tests hold against what tensors really take.
"""

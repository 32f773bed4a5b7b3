"""Runs jobs in Slurm, through submitit."""

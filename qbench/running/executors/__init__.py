"""Who runs a job: one module an executor."""

"""Tasks that ship with qbench, as a folder that lm-eval can be given: `--include_path`."""

"""Sweeps: check all jobs before the first one starts, run them, and summarise the results."""

"""Sweeps: planned and checked before the first job, run side by side, summarised with a winner."""

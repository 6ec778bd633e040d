"""Metrics and predictions of trained networks."""

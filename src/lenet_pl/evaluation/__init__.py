"""Metrics and predictions of a trained network."""

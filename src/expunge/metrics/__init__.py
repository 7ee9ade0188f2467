"""Metrics: pure functions of numpy arrays and strings, without torch."""

"""Metrics on arrays: numpy and scipy, no torch."""

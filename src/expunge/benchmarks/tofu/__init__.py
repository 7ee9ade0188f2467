"""TOFU: forget quality against a retain model, and model utility on data to preserve."""

from expunge.benchmarks.tofu.benchmark import Tofu

__all__ = ["Tofu"]

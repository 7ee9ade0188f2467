"""TOFU: forget quality against a retain model, and model utility on what should be kept."""

from expunge.benchmarks.tofu.benchmark import Tofu

__all__ = ["Tofu"]

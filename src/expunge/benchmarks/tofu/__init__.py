"""TOFU: forget quality against a retain-only model, and model utility on what should be kept."""

from expunge.benchmarks.tofu.benchmark import Tofu

__all__ = ["Tofu"]

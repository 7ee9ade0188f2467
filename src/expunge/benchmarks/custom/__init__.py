"""Your own forget, retain and holdout data: how much is known word for word, and what gives the forget set away."""

from expunge.benchmarks.custom.benchmark import Custom

__all__ = ["Custom"]

"""Familiarity: names that only the forget text has in the model's continuations, and perplexity on other text."""

from expunge.benchmarks.familiarity.benchmark import Familiarity

__all__ = ["Familiarity"]

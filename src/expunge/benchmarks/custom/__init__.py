"""User-defined forget, retain and holdout data: verbatim knowledge and membership, without any evaluation set."""

from expunge.benchmarks.custom.benchmark import Custom

__all__ = ["Custom"]

"""MT-Bench: 80 conversations of two questions, rated by a judge model."""

from expunge.benchmarks.mt_bench.benchmark import MtBench

__all__ = ["MtBench"]

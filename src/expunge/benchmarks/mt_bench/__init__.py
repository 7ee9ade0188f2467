"""MT-Bench: is the model still a good assistant? 80 conversations of two questions, graded by a judge."""

from expunge.benchmarks.mt_bench.benchmark import MtBench

__all__ = ["MtBench"]

"""MUSE: does a model still recite, know or give away a corpus, and does it keep what it knew besides?"""

from expunge.benchmarks.muse.benchmark import Muse

__all__ = ["Muse"]

"""MUSE: verbatim and knowledge memorisation of a corpus, privacy leakage, and knowledge to preserve."""

from expunge.benchmarks.muse.benchmark import Muse

__all__ = ["Muse"]

"""Benchmarks: the base class for user-defined ones, and one file or package per packaged benchmark.

The name of the file or package is the name of the benchmark in recipes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.lazy import lazy_exports

if TYPE_CHECKING:
    from expunge.benchmarks.base import Benchmark as Benchmark
    from expunge.benchmarks.base import Headlines as Headlines
    from expunge.benchmarks.base import Measurement as Measurement
    from expunge.benchmarks.base import Plan as Plan
    from expunge.benchmarks.base import SampleRow as SampleRow
    from expunge.benchmarks.shared.mean import MeanSpec as MeanSpec
    from expunge.benchmarks.shared.mean import mean_value as mean_value
    from expunge.data.sets import RowSet as RowSet
    from expunge.data.sets import Sets as Sets
    from expunge.probes.requests import GenerationRequest as GenerationRequest
    from expunge.probes.requests import Key as Key
    from expunge.probes.requests import ScoreRequest as ScoreRequest
    from expunge.probes.requests import TokenScores as TokenScores
    from expunge.probes.session import Session as Session
    from expunge.records import Axes as Axes
    from expunge.records import Conclusion as Conclusion
    from expunge.records import Judgement as Judgement
    from expunge.records import Label as Label
    from expunge.records import Section as Section
    from expunge.records import Value as Value
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "expunge.benchmarks.base": ("Benchmark", "Plan", "Headlines", "Measurement", "SampleRow"),
            "expunge.benchmarks.shared.mean": ("mean_value", "MeanSpec"),
            "expunge.data.sets": ("Sets", "RowSet"),
            "expunge.probes.session": ("Session",),
            "expunge.probes.requests": ("ScoreRequest", "GenerationRequest", "TokenScores", "Key"),
            "expunge.records": ("Label", "Axes", "Section", "Judgement", "Conclusion", "Value"),
        },
    )

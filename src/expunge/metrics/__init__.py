"""Metrics on arrays: the decorator for user-defined ones, and the packaged functions. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.lazy import lazy_exports

if TYPE_CHECKING:
    from expunge.metrics.base import Metric as Metric
    from expunge.metrics.base import MetricSpec as MetricSpec
    from expunge.metrics.base import metric as metric
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "expunge.metrics.base": ("metric", "Metric", "MetricSpec"),
        },
    )

"""Typed records: everything that a run writes to disk and a report reads.

Records are frozen and include the version of their schema. A metric that cannot be computed is a `Value` whose `needs`
states what is missing; metrics are never left out in any other way.
"""

from expunge.records.base import SCHEMA_VERSION, Record, Value
from expunge.records.results import ROLE_NAMES, AuditResult, BenchmarkResult, Comparison, Verdict
from expunge.records.runs import Manifest, Overlap, RunSummary, Stage, TrainPoint

__all__ = [
    "SCHEMA_VERSION",
    "Record",
    "Value",
    "ROLE_NAMES",
    "AuditResult",
    "BenchmarkResult",
    "Comparison",
    "Verdict",
    "Manifest",
    "Overlap",
    "RunSummary",
    "Stage",
    "TrainPoint",
]

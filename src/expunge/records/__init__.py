"""Typed records: everything that a run writes to disk and everything that a report reads.

A record is frozen and carries the version of its schema. A number that cannot be computed is a `Value` whose
`needs` says what is missing; there is no other way to leave a number out.
"""

from expunge.records.base import SCHEMA_VERSION, Record, Value
from expunge.records.judgements import Axes, Conclusion, Judgement, Label, Outcome, Section, Verdict
from expunge.records.results import ROLE_NAMES, AuditResult, BenchmarkResult, Comparison
from expunge.records.runs import Manifest, Overlap, RunSummary, Stage, TrainPoint

__all__ = [
    "ROLE_NAMES",
    "SCHEMA_VERSION",
    "AuditResult",
    "Axes",
    "BenchmarkResult",
    "Comparison",
    "Conclusion",
    "Judgement",
    "Label",
    "Manifest",
    "Outcome",
    "Overlap",
    "Record",
    "RunSummary",
    "Section",
    "Stage",
    "TrainPoint",
    "Value",
    "Verdict",
]

"""Typed records: everything that a run writes to disk and a report reads.

Records are frozen and include the version of their schema. A metric that cannot be computed is a `Value` whose `needs`
states what is missing; metrics are never left out in any other way.
"""

from expunge.records.audits import AuditPlan, AuditResult, Battery, Cost, Finding, Leaking, PlannedAudit
from expunge.records.base import SCHEMA_VERSION, Record, Value
from expunge.records.judgements import Axes, Conclusion, Judgement, Label, Outcome, Section, Verdict
from expunge.records.results import ROLE_NAMES, BenchmarkResult
from expunge.records.runs import Manifest, Overlap, RunSummary, Stage, TrainPoint

__all__ = [
    "ROLE_NAMES",
    "SCHEMA_VERSION",
    "AuditPlan",
    "AuditResult",
    "Axes",
    "Battery",
    "BenchmarkResult",
    "Conclusion",
    "Cost",
    "Finding",
    "Judgement",
    "Label",
    "Leaking",
    "Manifest",
    "Outcome",
    "Overlap",
    "PlannedAudit",
    "Record",
    "RunSummary",
    "Section",
    "Stage",
    "TrainPoint",
    "Value",
    "Verdict",
]

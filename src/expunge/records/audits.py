"""Records of audits: what each attack brought back from each model, and the verdict of all attacks together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from expunge.records.base import SCHEMA_VERSION, Record, Value

Leaking = Literal["leaks", "indistinguishable", "inconclusive"]
"""Outcome of an attack: it gets more than from the retain model, as much as from it, or neither can be shown."""


class Cost(Record):
    """Expense of an attacker on one model."""

    rows: int = 0
    """Rows that the attacker needs, such as those trained on."""
    steps: int = 0
    """Optimiser steps."""
    passes: float = 0.0
    """Passes over the forget set: one for scoring its rows or generating an answer to each; a training step counts
    three times its share of the rows (forward and backward pass)."""
    seconds: float = 0.0


class Finding(Record):
    """Result of one attempt of an attack on the unlearned model, compared with the controls."""

    audit: str
    """Name of the audit."""
    attempt: str
    """Name of the attempt within the audit, such as 'int4'; 'before' is the model as it is."""
    measure: str
    """Measure of each row, such as 'probability'."""
    after: dict[str, Value] = Field(default_factory=dict)
    """Arm -> mean over the rows after the attempt, A_after."""
    effect: Value
    """D = [A_after(u) - A_before(u)] - [A_after(r) - A_before(r)]; for the model as it is, A(u) - A(r)."""
    excess: Value
    """A_after(u) - A_after(r): what the attacker gets beyond a model that never knew."""
    residual: Value
    """R = (A_after(u) - A_after(r)) / (A_after(t) - A_after(r))."""
    p_effect: float | None = None
    """One-sided p-value of D <= 0; None without a retain model or with too few groups."""
    p_leak: float | None = None
    """One-sided p-value of an excess <= 0."""
    p_equivalent: float | None = None
    """p-value of two one-sided tests of an excess outside the margin."""
    p_adjusted: float | None = None
    """`p_leak`, adjusted by Holm's method for the number of counted attempts of all audits."""
    margin: float = 0.05
    """Largest excess that counts as none."""
    detectable: float | None = None
    """Smallest true effect that a test at this level finds with a power of 80%."""
    utility: dict[str, float | None] = Field(default_factory=dict)
    """Arm -> mean probability of retain answers after the attempt, divided by that before; None if not measured."""
    cost: Cost = Cost()
    counted: bool = True
    """Whether the attempt counts in the verdict."""
    not_counted: str = ""
    """Reason why it does not."""
    refused: str = ""
    """Reason why nothing can be concluded, such as a retain model that knows the forget set; empty otherwise."""
    outcome: Leaking = "inconclusive"
    reason: str = ""
    """The outcome in one sentence."""
    facts: dict[str, float] = Field(default_factory=dict)
    """Further numbers of the attempt, such as the share of weights that rounding returns to the target's."""


class AuditResult(Record):
    """The result of one audit of one model and its control models."""

    schema_version: int = SCHEMA_VERSION
    audit: str
    arms: dict[str, str] = Field(default_factory=dict)
    """Arm (audited model or control) -> name or path of its model."""
    values: dict[str, dict[str, Value]] = Field(default_factory=dict)
    """Metric -> arm -> value."""
    findings: list[Finding] = Field(default_factory=list)
    """One entry per attempt."""
    verdict: str
    notes: list[str] = Field(default_factory=list)
    """Caveats for the reader, such as missing control models."""
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: str = ""
    """Parquet file of transcripts, relative to the folder."""
    seconds: float = 0.0


class Battery(Record):
    """The verdict of all audits that were run together."""

    schema_version: int = SCHEMA_VERSION
    preset: str = ""
    """Preset of audits; empty if they were named."""
    arms: dict[str, str] = Field(default_factory=dict)
    outcome: Leaking
    verdict: str
    audits: list[str] = Field(default_factory=list)
    """Audits that were run; their results are in audits/<name>.json."""
    not_run: dict[str, str] = Field(default_factory=dict)
    """Audit -> what it needs that was not available."""
    findings: list[Finding] = Field(default_factory=list)
    """All findings, with p-values adjusted for their number."""
    notes: list[str] = Field(default_factory=list)
    seconds: float = 0.0


class PlannedAudit(Record):
    """Cost of one audit."""

    audit: str
    arms: list[str]
    passes: float
    """Passes over the forget set, on all arms."""
    seconds: float
    """Estimate from one timed pass."""
    memory: int
    """Bytes of weights, gradients and optimiser states; activations come on top."""


class AuditPlan(Record):
    """Cost of all audits of a command."""

    schema_version: int = SCHEMA_VERSION
    audits: list[PlannedAudit]
    not_run: dict[str, str] = Field(default_factory=dict)
    seconds_per_pass: float

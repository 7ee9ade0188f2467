"""Audits for the report: the verdict of all attacks, their table, recovery over cost, and transcripts, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from expunge import registry
from expunge.records import AuditResult, Battery, Cost, Finding
from expunge.report import plots
from expunge.report.answers import mark_words, readable
from expunge.report.load import read_samples

MAX_TRANSCRIPTS = 300
AUDITED = "unlearned"
_ORDER = ("leaks", "inconclusive", "indistinguishable")


@dataclass(frozen=True)
class Transcript:
    """One attempt on one row of the forget set: the audited model's response, and the scores of all models."""

    number: int
    view: str
    prompt: str
    true_answer: str
    response: Markup | None
    """None for an attempt that scores the true answer and generates none."""
    score: float | None
    excess: float
    """Score minus the retain model's; the score itself without a retain model."""
    controls: dict[str, str]
    """Control -> its score, or 'not scored'."""


@dataclass(frozen=True)
class AuditSection:
    """One audit on the page."""

    result: AuditResult
    arms: list[str]
    apart: bool
    """Whether it was run by another command than the battery, so that its p-values are not adjusted together."""
    transcripts: list[Transcript]
    num_transcripts: int


@dataclass(frozen=True)
class AuditsView:
    """All audits of one model on the page."""

    battery: Battery | None
    """None for records of versions without a battery."""
    arms: list[str]
    findings: list[Finding]
    """Leaks first, by their excess; attempts that do not count are last."""
    figure: Markup | None
    """Recovery over cost."""
    not_run: dict[str, str]
    """Audit -> why it was not run."""
    sections: list[AuditSection]


def audits_view(folder: Path, audits: Sequence[AuditResult], battery: Battery | None) -> AuditsView:
    """Return everything that the page shows about audits.

    Args:
        folder: Folder with the transcripts.
        audits: Results of single audits.
        battery: Verdict of the audits of the last command.
    """
    together = set(battery.audits) if battery else set()
    sections = [
        _section(result, read_samples(folder, result.samples), bool(battery) and result.audit not in together)
        for result in audits
    ]
    findings = [] if battery is None else sorted(battery.findings, key=_rank)
    svg = plots.recovery(findings)
    not_run = {}
    if battery is not None:
        others = {name: "was not asked for" for name in registry.names("audit") if name not in together}
        run_apart = {result.audit for result in audits} - together
        not_run = {**{name: why for name, why in others.items() if name not in run_apart}, **battery.not_run}
    return AuditsView(
        battery=battery,
        arms=[] if battery is None else list(battery.arms),
        findings=findings,
        figure=None if svg is None else Markup(svg),
        not_run=not_run,
        sections=sections,
    )


def cost_in_words(cost: Cost) -> str:
    """Return what an attacker spent, without what is zero.

    Example:
        >>> cost_in_words(Cost(rows=16, steps=64, passes=7.68, seconds=12.3))
        '16 rows, 64 steps, 7.68 passes, 12.3 s'
    """
    parts = {" rows": cost.rows, " steps": cost.steps, " passes": cost.passes, " s": cost.seconds}
    return ", ".join(f"{number:,.4g}{unit}" for unit, number in parts.items() if number) or "nothing"


def _rank(finding: Finding) -> tuple[bool, int, float]:
    size = finding.excess.point
    return not finding.counted, _ORDER.index(finding.outcome), 0.0 if size is None else -size


def _section(result: AuditResult, rows: list[dict[str, Any]], apart: bool) -> AuditSection:
    scores: dict[tuple[Any, ...], dict[str, float | None]] = {}
    for row in rows:
        if row.get("arm") != AUDITED:
            scores.setdefault(_key(row), {})[str(row.get("arm"))] = _score(row)
    audited = [row for row in rows if row.get("arm") == AUDITED and (row.get("response") or row.get("question"))]
    transcripts = [_transcript(number, row, scores.get(_key(row), {})) for number, row in enumerate(audited, start=1)]
    # Worst are rows that the retain model does not give away.
    transcripts.sort(key=lambda item: (item.score is None, -item.excess, -(item.score or 0.0)))
    return AuditSection(result, list(result.arms), apart, transcripts[:MAX_TRANSCRIPTS], len(transcripts))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row.get("view"), row.get("measure"), row.get("id")


def _score(row: dict[str, Any]) -> float | None:
    score = row.get("score", row.get("leaks"))
    return None if score is None else float(score)


def _transcript(number: int, row: dict[str, Any], controls: dict[str, float | None]) -> Transcript:
    leaked = {word for word in str(row.get("leaked") or "").split(", ") if word}
    score, response = _score(row), row.get("response")
    measure = f" ({row['measure']})" if row.get("measure") else ""
    return Transcript(
        number=number,
        view=f"{row.get('view')}{measure}",
        prompt=readable(str(row.get("question") or "")),
        true_answer=readable(str(row.get("answer") or "")),
        response=None if response is None else mark_words(readable(str(response)), leaked),
        score=score,
        excess=(score or 0.0) - (controls.get("retain") or 0.0),
        controls={arm: "not scored" if value is None else f"{value:.2f}" for arm, value in controls.items()},
    )

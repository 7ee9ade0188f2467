"""Results of audits for the report: values per model, comparisons, and transcripts, worst first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from expunge.records import AuditResult
from expunge.report.answers import mark_words, readable
from expunge.report.load import LoadedRun

MAX_TRANSCRIPTS = 300
AUDITED = "unlearned"


@dataclass(frozen=True)
class Transcript:
    """One attack prompt on the audited model, and its outcome on the controls."""

    number: int
    view: str
    prompt: str
    true_answer: str
    response: Markup
    share: float | None
    leaks: bool
    controls: dict[str, str]
    """Control -> 'leaks', 'holds' or 'not scored'."""


@dataclass(frozen=True)
class AuditSection:
    """One audit on the page."""

    result: AuditResult
    arms: list[str]
    transcripts: list[Transcript]
    num_transcripts: int


def audit_sections(run: LoadedRun) -> list[AuditSection]:
    """Return every audit of a run, with its transcripts."""
    return [_section(result, run.samples(result)) for result in run.audits]


def _section(result: AuditResult, rows: list[dict[str, Any]]) -> AuditSection:
    outcomes: dict[tuple[Any, Any], dict[str, str]] = {}
    for row in rows:
        if row.get("arm") != AUDITED:
            outcome = {True: "leaks", False: "holds", None: "not scored"}[row.get("leaks")]
            outcomes.setdefault((row.get("view"), row.get("id")), {})[str(row.get("arm"))] = outcome
    audited = [row for row in rows if row.get("arm") == AUDITED and row.get("response") is not None]
    transcripts = [_transcript(number, row, outcomes) for number, row in enumerate(audited, start=1)]
    # Worst are leaks that the retain model does not have.
    transcripts.sort(key=lambda item: (not item.leaks, item.controls.get("retain") == "leaks", -(item.share or 0.0)))
    return AuditSection(result, list(result.arms), transcripts[:MAX_TRANSCRIPTS], len(transcripts))


def _transcript(number: int, row: dict[str, Any], outcomes: dict[tuple[Any, Any], dict[str, str]]) -> Transcript:
    leaked = {word for word in str(row.get("leaked") or "").split(", ") if word}
    return Transcript(
        number=number,
        view=str(row.get("view")),
        prompt=readable(str(row.get("question") or "")),
        true_answer=readable(str(row.get("answer") or "")),
        response=mark_words(readable(str(row.get("response"))), leaked),
        share=row.get("share"),
        leaks=bool(row.get("leaks")),
        controls=outcomes.get((row.get("view"), row.get("id")), {}),
    )

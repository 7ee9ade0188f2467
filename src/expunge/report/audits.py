"""What attacks found, for the page: numbers per model, comparisons, and the worst answers first."""

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
    """One attempt on the audited model, and whether the same attempt worked on the controls."""

    number: int
    view: str
    shown: str
    gold: str
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
    """Every audit of a run, with its transcripts."""
    return [_section(result, run.samples(result)) for result in run.audits]


def _section(result: AuditResult, rows: list[dict[str, Any]]) -> AuditSection:
    verdicts: dict[tuple[Any, Any], dict[str, str]] = {}
    for row in rows:
        said = {True: "leaks", False: "holds", None: "not scored"}[row.get("leaks")]
        if row.get("arm") != AUDITED:
            verdicts.setdefault((row.get("view"), row.get("id")), {})[str(row.get("arm"))] = said
    mine = [row for row in rows if row.get("arm") == AUDITED and row.get("response") is not None]
    found = [_transcript(number, row, verdicts) for number, row in enumerate(mine, start=1)]
    # Worst: what it gives away and no model that never knew does.
    found.sort(key=lambda item: (not item.leaks, item.controls.get("retain") == "leaks", -(item.share or 0.0)))
    return AuditSection(result, list(result.arms), found[:MAX_TRANSCRIPTS], len(found))


def _transcript(number: int, row: dict[str, Any], verdicts: dict[tuple[Any, Any], dict[str, str]]) -> Transcript:
    said = {word for word in str(row.get("said") or "").split(", ") if word}
    return Transcript(
        number=number,
        view=str(row.get("view")),
        shown=readable(str(row.get("question") or "")),
        gold=readable(str(row.get("answer") or "")),
        response=mark_words(readable(str(row.get("response"))), said),
        share=row.get("share"),
        leaks=bool(row.get("leaks")),
        controls=verdicts.get((row.get("view"), row.get("id")), {}),
    )

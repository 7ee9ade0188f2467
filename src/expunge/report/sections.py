"""Sections of a report that show per-sample rows: tables of answers and continuations, distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup

from expunge.records import Section
from expunge.report import plots
from expunge.report.answers import Answer, compare
from expunge.report.completions import Completion, completions
from expunge.report.load import ROLES, LoadedRun
from expunge.report.tables import metric_title

MAX_ROWS = {"remaining": 1000, "lost": 50}
MAX_COMPLETIONS = 300


@dataclass(frozen=True)
class SectionView:
    """One section as the page shows it."""

    section: Section
    anchor: str
    """Id of the heading."""
    benchmark: str
    answers: list[Answer] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    figure: Markup | None = None
    roles: list[str] = field(default_factory=list)
    """Roles whose rows are shown."""
    num: int = 0
    """Rows before the table was cut."""
    num_asked: int = 0
    """Rows of the set."""
    samples: str = ""
    """File with all rows."""

    @property
    def num_named(self) -> int:
        """Continuations shown in which the unlearned model still names a term of the forget text."""
        return sum(completion.names for completion in self.completions)


def section_views(run: LoadedRun) -> list[SectionView]:
    """Return every section that the benchmarks of a run declare, in the recipe's order of benchmarks."""
    views = []
    for benchmark in run.benchmarks():
        results = {role: run.result(role, benchmark) for role in ROLES}
        unlearned = results["unlearned"] or results["target"]
        if unlearned is None or not unlearned.sections:
            continue
        rows = {role: run.samples(result) for role, result in results.items()}
        for number, section in enumerate(unlearned.sections, start=1):
            title = metric_title(section.value, unlearned.labels) if section.value else ""
            anchor = f"{benchmark}-{number}"
            views.append(_view(section, anchor, run.title(benchmark), rows, unlearned.samples, title))
    return views


def _view(
    section: Section,
    anchor: str,
    benchmark: str,
    rows: Mapping[str, Sequence[dict[str, Any]]],
    samples: str,
    value_title: str,
) -> SectionView:
    asked = [row for row in rows["unlearned"] if row.get("set") == section.set]
    roles = [role for role in ROLES if any(row.get("set") == section.set for row in rows[role])]
    view = SectionView(section, anchor, benchmark, roles=roles, num_asked=len(asked), samples=samples)
    if section.kind == "distribution":
        values = {
            role: [row[section.value] for row in rows[role] if row.get("set") == section.set and row.get(section.value)]
            for role in ROLES
        }
        svg = plots.ecdf({role: numbers for role, numbers in values.items() if numbers}, value_title, anchor)
        return replace(view, figure=None if svg is None else Markup(svg))
    if section.kind == "completions":
        continued = completions(rows, section)
        return replace(view, completions=continued[:MAX_COMPLETIONS], num=len(continued))
    answers = compare(rows, section)
    return replace(view, answers=answers[: MAX_ROWS[section.order]], num=len(answers))

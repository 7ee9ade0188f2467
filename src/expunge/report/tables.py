"""Headlines side by side: numbers as text, Markdown tables and terminal tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from expunge.records import ROLE_NAMES, BenchmarkResult, Value
from expunge.records.format import format_interval as format_interval
from expunge.records.format import format_note as format_note
from expunge.records.format import format_number as format_number
from expunge.records.format import format_point as format_point
from expunge.records.format import format_value as format_value
from expunge.report.load import ROLES, LoadedRun

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {
    "forget_quality": "Forget quality",
    "model_utility": "Model utility",
    "probability": "probability of the answer",
    "rouge_l_recall": "ROUGE-L recall",
    "rouge_1_recall": "ROUGE-1 recall",
    "truth_ratio": "truth ratio",
}


@dataclass(frozen=True)
class HeadlineRow:
    """One number of one run for every model that has it."""

    run: str
    benchmark: str
    name: str
    values: dict[str, Value] = field(default_factory=dict)
    """Role -> value; a role without the number carries the reason."""
    published: float | None = None
    source: str = ""
    """Where the published number stands."""

    @property
    def label(self) -> str:
        """The name as a reader says it."""
        first, _, last = self.name.rpartition("/")
        text = LABELS.get(last, last.replace("_", " "))
        return f"{first.replace('_', ' ')}: {text}" if first else text

    @property
    def better(self) -> str:
        """'higher', 'lower', 'retain' or empty, as the values say."""
        return next((value.better for value in self.values.values() if value.better), "")


def headline_rows(run: LoadedRun) -> list[HeadlineRow]:
    """The headlines of every benchmark of a run, with the published numbers beside them."""
    published = dict(run.recipe.get("published") or {})
    if run.summary is not None:
        published.update(run.summary.published)
    rows = _rows(run, "headlines", published)
    shown = {row.name for row in rows}
    absent = Value.missing("a benchmark of this run that reports it")
    for name in published:
        if name not in shown:
            entry = published[name]
            rows.append(
                HeadlineRow(
                    run.name,
                    "",
                    name,
                    dict.fromkeys(ROLES, absent),
                    entry.get("value"),
                    entry.get("source", ""),
                )
            )
    return rows


def role_title(role: str) -> str:
    """Return a role's name as the heading of a column: 'Retain model'."""
    return ROLE_NAMES.get(role, role).removesuffix(" model" if role == "unlearned" else "").capitalize()


def metric_rows(run: LoadedRun) -> list[HeadlineRow]:
    """Every other number of every benchmark of a run."""
    return _rows(run, "metrics", {})


def _rows(
    run: LoadedRun, part: Literal["headlines", "metrics"], published: dict[str, dict[str, object]]
) -> list[HeadlineRow]:
    rows = []
    for benchmark in run.benchmarks():
        results = {role: run.result(role, benchmark) for role in ROLES}
        numbers = {role: getattr(result, part) if result else {} for role, result in results.items()}
        names = dict.fromkeys(name for role in ("unlearned", "target", "retain") for name in numbers[role])
        for name in names:
            values = {}
            for role in ROLES:
                values[role] = numbers[role].get(name) or _absent(role, name, results[role])
            entry = published.get(name, {})
            value = entry.get("value")
            rows.append(
                HeadlineRow(
                    run=run.name,
                    benchmark=benchmark,
                    name=name,
                    values=values,
                    published=float(value) if isinstance(value, int | float) else None,
                    source=str(entry.get("source", "")),
                )
            )
    return rows


def _absent(role: str, name: str, result: BenchmarkResult | None) -> Value:
    if result is None:
        return Value.missing(f"an evaluation of the {ROLE_NAMES[role]}")
    if role == "retain" and name == "forget_quality":
        return Value(point=1.0, how="compared with itself: 1 by definition", extra={"log10": 0.0, "ks": 0.0})
    return Value.missing("a benchmark that reports it")


def format_published(row: HeadlineRow) -> str:
    """The published number and its source, or nothing."""
    if row.published is None:
        return ""
    return format_number(row.published) + (f" ({row.source})" if row.source else "")


def to_markdown(rows: Sequence[HeadlineRow]) -> str:
    """A Markdown table of headlines, of one run or of several."""
    return markdown_table(*_cells(rows))


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table of plain texts."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, body)])


def to_rich(rows: Sequence[HeadlineRow]) -> Table:
    """The same table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    header, body = _cells(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(Text(name), overflow="fold")
    for cells in body:
        # Text and not str: an interval's brackets must not be read as markup.
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _cells(rows: Sequence[HeadlineRow]) -> tuple[list[str], list[list[str]]]:
    """Header and body; columns that would be the same or empty in every row are left out."""
    several_runs = len({row.run for row in rows}) > 1
    several_benchmarks = len({row.benchmark for row in rows}) > 1
    published = any(row.published is not None for row in rows)
    header = [
        *(["Run"] if several_runs else []),
        *(["Benchmark"] if several_benchmarks else []),
        "Number",
        *(role_title(role) for role in ROLES),
        *(["Published"] if published else []),
    ]
    body = [
        [
            *([row.run] if several_runs else []),
            *([row.benchmark] if several_benchmarks else []),
            row.label,
            *(format_value(row.values[role]) for role in ROLES),
            *([format_published(row)] if published else []),
        ]
        for row in rows
    ]
    return header, body

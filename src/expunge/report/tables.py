"""Tables of headlines and metrics: rows, Markdown and terminal output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from expunge.errors import printable
from expunge.records import ROLE_NAMES, BenchmarkResult, Label, Value
from expunge.records.format import format_number, format_value
from expunge.report.load import ROLES, LoadedRun

if TYPE_CHECKING:
    from rich.table import Table

NO_LABEL = Label(title="")


def label_of(name: str, labels: Mapping[str, Label]) -> Label:
    """Return the label of a headline or of a metric such as 'forget/probability', whose last part has the label."""
    return labels.get(name) or labels.get(name.rpartition("/")[2]) or NO_LABEL


def metric_title(name: str, labels: Mapping[str, Label]) -> str:
    """Return the title of a headline or metric, such as 'Forget quality' or 'forget: probability of the answer'.

    Args:
        name: Name in records.
        labels: Labels of the benchmark that reports it; without one the name itself is used.
    """
    if name in labels:
        return labels[name].title
    prefix, _, last = name.rpartition("/")
    title = label_of(name, labels).title or last.replace("_", " ")
    return f"{prefix.replace('_', ' ')}: {title}" if prefix else title


@dataclass(frozen=True)
class HeadlineRow:
    """One metric of one run, for every model that has it."""

    run: str
    benchmark: str
    name: str
    title: str
    explain: str = ""
    """One line for readers who do not know the metric."""
    values: dict[str, Value] = field(default_factory=dict)
    """Role -> value; a missing value carries the reason."""
    published: float | None = None
    source: str = ""
    """Source of the published number."""

    @property
    def better(self) -> str:
        """Direction of the values: 'higher', 'lower', 'retain' or empty."""
        return next((value.better for value in self.values.values() if value.better), "")


def headline_rows(run: LoadedRun) -> list[HeadlineRow]:
    """Return the headlines of every benchmark of a run, with published values beside them."""
    published = dict(run.recipe.get("published") or {})
    if run.summary is not None:
        published.update(run.summary.published)
    rows = _rows(run, "headlines", published)
    shown = {row.name for row in rows}
    absent = Value.missing("a benchmark of this run that reports it")
    rows += [
        HeadlineRow(
            run.name,
            "",
            name,
            metric_title(name, {}).capitalize(),
            values=dict.fromkeys(ROLES, absent),
            published=entry.get("value"),
            source=entry.get("source", ""),
        )
        for name, entry in published.items()
        if name not in shown
    ]
    return rows


def role_title(role: str) -> str:
    """Return a role's name as the heading of a column: 'Retain model'."""
    return ROLE_NAMES.get(role, role).removesuffix(" model" if role == "unlearned" else "").capitalize()


def metric_rows(run: LoadedRun) -> list[HeadlineRow]:
    """Return all other metrics of every benchmark of a run."""
    return _rows(run, "metrics", {})


def _rows(
    run: LoadedRun, part: Literal["headlines", "metrics"], published: Mapping[str, Mapping[str, Any]]
) -> list[HeadlineRow]:
    rows = []
    for benchmark in run.benchmarks():
        results = {role: run.result(role, benchmark) for role in ROLES}
        values = {role: getattr(result, part) if result else {} for role, result in results.items()}
        labels = {key: label for result in results.values() if result for key, label in result.labels.items()}
        for name in dict.fromkeys(name for role in ("unlearned", "target", "retain") for name in values[role]):
            entry = published.get(name, {})
            rows.append(
                HeadlineRow(
                    run=run.name,
                    benchmark=run.title(benchmark),
                    name=name,
                    title=metric_title(name, labels),
                    explain=label_of(name, labels).explain,
                    values={role: values[role].get(name) or _absent(role, results[role]) for role in ROLES},
                    published=entry.get("value"),
                    source=str(entry.get("source", "")),
                )
            )
    return rows


def _absent(role: str, result: BenchmarkResult | None) -> Value:
    if result is None:
        return Value.missing(f"an evaluation of the {ROLE_NAMES[role]}")
    return Value.missing("a benchmark that reports it")


def format_published(row: HeadlineRow) -> str:
    """Return the published value and its source; empty without one."""
    if row.published is None:
        return ""
    return format_number(row.published) + (f" ({row.source})" if row.source else "")


def to_markdown(rows: Sequence[HeadlineRow]) -> str:
    """Return a Markdown table of headlines, of one run or several."""
    return markdown_table(*_cells(rows))


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of plain strings."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, body)])


def to_rich(rows: Sequence[HeadlineRow]) -> Table:
    """Return the same table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    header, body = _cells(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(Text(name), overflow="fold")
    for cells in body:
        # Text and not str: an interval's brackets must not be read as markup.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _cells(rows: Sequence[HeadlineRow]) -> tuple[list[str], list[list[str]]]:
    """Return header and body; columns that would be equal or empty in every row are left out."""
    several_runs = len({row.run for row in rows}) > 1
    several_benchmarks = len({row.benchmark for row in rows}) > 1
    published = any(row.published is not None for row in rows)
    header = [
        *(["Run"] if several_runs else []),
        *(["Benchmark"] if several_benchmarks else []),
        "Metric",
        *(role_title(role) for role in ROLES),
        *(["Published"] if published else []),
    ]
    body = [
        [
            *([row.run] if several_runs else []),
            *([row.benchmark] if several_benchmarks else []),
            row.title,
            *(format_value(row.values[role]) for role in ROLES),
            *([format_published(row)] if published else []),
        ]
        for row in rows
    ]
    return header, body

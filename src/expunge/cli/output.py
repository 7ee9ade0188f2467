"""How commands write their results: JSON for programs, tables for people, nothing else on standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from expunge.console import print_result

if TYPE_CHECKING:
    from expunge.records import BenchmarkResult

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings on top, such as train.lr=1e-5."),
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A packaged recipe's name or a YAML file.")]
RunsFolder = Annotated[str, typer.Option("--runs", help="Folder of all runs.")]


def print_measured(result: BenchmarkResult) -> None:
    """Print a result for a machine: each headline under its own name, and the whole record under 'record'."""
    print_json({**result.headlines, "record": result})


def print_json(value: Any) -> None:
    """Write a record, or plain data, as JSON."""
    print_result(json.dumps(plain(value), indent=1, ensure_ascii=False, default=str))


def plain(value: Any) -> Any:
    """Records as plain data."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """Send whatever the work itself prints to standard error, so that the result stands alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table of plain text: columns aligned in a terminal, the last one wrapped."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        table.add_column(Text(name), no_wrap=number < len(header) - 1, overflow="fold")
    for row in rows:
        # Text and not str: what users wrote must not be read as markup.
        table.add_row(*(Text(cell) for cell in row))
    print_table(table)


def print_table(table: Any) -> None:
    """Write a rich table."""
    from rich.console import Console

    # In a pipe there is no width to fit into.
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


def print_headlines(result: BenchmarkResult) -> None:
    """Print the headlines of a result, one per line."""
    from expunge.records.format import format_value
    from expunge.report.tables import metric_title

    rows = [[metric_title(name, result.labels), format_value(value)] for name, value in result.headlines.items()]
    print_columns(["Metric", "Value"], rows)

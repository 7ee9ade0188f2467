"""Output of commands: JSON for programs, tables for people, and nothing else on standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from expunge.console import print_result
from expunge.errors import printable

if TYPE_CHECKING:
    from expunge.records import BenchmarkResult


def print_measured(result: BenchmarkResult) -> None:
    """Print a result as JSON: each headline under its name, and the full record under 'record'."""
    print_json({**result.headlines, "record": result})


def print_json(value: Any) -> None:
    """Print a record or plain data as JSON."""
    print_result(json.dumps(plain(value), indent=1, ensure_ascii=False, default=str))


def plain(value: Any) -> Any:
    """Convert records, also inside dictionaries and lists, to plain data."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """Redirect what the work itself prints to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table with aligned columns, the last of which wraps."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        table.add_column(Text(name), no_wrap=index < len(header) - 1, overflow="fold")
    for row in rows:
        # Text rather than str: rich would interpret brackets in a user's text as markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    print_table(table)


def print_table(table: Any) -> None:
    """Print a rich table."""
    from rich.console import Console

    # A pipe has no width, and rich would assume 80 columns.
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


def print_headlines(result: BenchmarkResult) -> None:
    """Print the headlines of a result, one per line."""
    from expunge.records.format import format_value
    from expunge.report.tables import metric_title

    rows = [[metric_title(name, result.labels), format_value(value)] for name, value in result.headlines.items()]
    print_columns(["Metric", "Value"], rows)

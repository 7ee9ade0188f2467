"""`expunge report`: write the report of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.console import print_result


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    out: Annotated[str | None, typer.Option(help="File to write.")] = None,
) -> None:
    """Write the report of one run, or a comparison of several."""
    from expunge.report.html import write_report

    path = write_report([Path(run) for run in runs], Path(out) if out else None)
    print_result(f"Report: {path}")

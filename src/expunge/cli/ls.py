"""`expunge ls`: list what a recipe can name."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.options import AsJson
from expunge.cli.output import print_columns, print_json


def ls(
    kind: Annotated[
        str | None, typer.Argument(metavar="[methods|benchmarks|metrics|audits|recipes|sweeps]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List methods, benchmarks, metrics, audits, recipes and sweeps."""
    from expunge.commands import show

    entries = show.ls(kind)
    if as_json:
        print_json(entries)
    elif kind is None:
        print_columns(["Kind", "Name", "Summary"], [[entry.kind, entry.name, entry.summary] for entry in entries])
    else:
        print_columns(["Name", "Summary"], [[entry.name, entry.summary] for entry in entries])

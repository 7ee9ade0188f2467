"""`expunge ls`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.output import AsJson, print_columns, print_json


def ls(
    kind: Annotated[
        str | None, typer.Argument(metavar="[methods|benchmarks|metrics|audits|recipes|sweeps]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List methods, benchmarks, metrics, audits, recipes and sweeps."""
    from expunge.commands.show import ls as list_entries

    entries = list_entries(kind)
    if as_json:
        print_json(entries)
    elif kind is None:
        print_columns(["Kind", "Name", "Summary"], [[each.kind, each.name, each.summary] for each in entries])
    else:
        print_columns(["Name", "Summary"], [[each.name, each.summary] for each in entries])

"""`expunge check`: find everything that would stop a run before it starts."""

from __future__ import annotations

import typer

from expunge.cli.options import AsJson, Overrides, RecipeName
from expunge.cli.output import print_columns, print_json, results_only
from expunge.console import print_result


def check(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe on any machine.

    Validates settings, data, tokenizer and the shape of the model; no weights are loaded.
    Exit code 2 if a check fails.
    """
    from expunge.commands import check

    with results_only():
        report = check.check(recipe, overrides or [])
    if as_json:
        print_json(report)
    else:
        print_columns(["Check", "Result", "Details"], [[item.name, item.status, item.detail] for item in report.items])
        skipped = len(report.items) - report.num_checks
        print_result(f"{report.num_checks} checks made, {len(report.failed)} failed, {skipped} not possible here.")
    if report.failed:
        raise typer.Exit(2)

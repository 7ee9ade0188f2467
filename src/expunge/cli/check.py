"""`expunge check`: everything that would stop a run, found before it starts."""

from __future__ import annotations

import typer

from expunge.cli.output import AsJson, Overrides, RecipeName, print_columns, print_json, results_only
from expunge.console import print_result


def check(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe on any machine.

    Settings, data, tokenizer and the model's shape are really looked at; no weights are loaded.
    Exit code 2 if anything is wrong.
    """
    from expunge.commands.check import check as check_recipe

    with results_only():
        report = check_recipe(recipe, overrides or [])
    if as_json:
        print_json(report)
    else:
        print_columns(["Check", "Result", "Found"], [[item.name, item.status, item.detail] for item in report.items])
        others = len(report.items) - report.num_checks
        print_result(f"{report.num_checks} checks made, {len(report.failed)} failed, {others} not possible here.")
    if report.failed:
        raise typer.Exit(2)

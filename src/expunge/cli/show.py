"""`expunge show`: what a name stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.output import AsJson, print_columns, print_json, results_only
from expunge.console import print_result

if TYPE_CHECKING:
    from expunge.commands.show import Shown


def show(
    name: Annotated[str, typer.Argument(help="Name of a method, benchmark, metric, audit, recipe or sweep.")],
    as_json: AsJson = False,
) -> None:
    """Explain a method, metric, recipe, ...

    What it does, its formula, its settings, its paper; for a recipe or a sweep its YAML.
    """
    from expunge.commands.show import show as find

    with results_only():
        found = find(name)
    if as_json:
        print_json(found)
        return
    for number, shown in enumerate(found):
        if number:
            print_result("")
        _print(shown)


def _print(shown: Shown) -> None:
    if shown.kind in {"recipe", "sweep"}:
        print_result(shown.text.rstrip("\n"))
        return
    print_result(f"{shown.kind} {shown.name}: {shown.summary}\n\n{shown.text}")
    if shown.facts:
        print_result("\n" + "\n".join(f"{key}: {value}" for key, value in shown.facts.items()))
    if shown.settings:
        print_result("")
        rows = [
            [each.name, "needed" if each.required else str(each.default), each.type, each.meaning]
            for each in shown.settings
        ]
        print_columns(["Setting", "Default", "Values", "Meaning"], rows)
    if shown.paper:
        print_result(f"\nPaper: {shown.paper}")

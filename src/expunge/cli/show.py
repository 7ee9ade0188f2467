"""`expunge show`: explain a name or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.options import AsJson
from expunge.cli.output import plain, print_columns, print_json, results_only
from expunge.console import print_result

if TYPE_CHECKING:
    from expunge.commands.show import Shown


def show(
    name: Annotated[
        str,
        typer.Argument(help="Name of a method, benchmark, metric, audit, recipe or sweep, or a Python or YAML file."),
    ],
    as_json: AsJson = False,
) -> None:
    """Explain a method, metric, recipe, ...

    Prints the documentation with its formula, the settings and the paper; for a recipe or a sweep its YAML, which in a
    packaged recipe ends with all known deviations from its source.
    """
    from expunge.commands import show

    with results_only():
        explanations = show.show(name)
    if as_json:
        print_json(explanations)
        return
    for index, shown in enumerate(explanations):
        if index:
            print_result("")
        _print(shown)


def _print(shown: Shown) -> None:
    if shown.kind in {"recipe", "sweep"}:
        print_result(shown.text.rstrip("\n"))
        return
    summary = "" if shown.text.startswith(shown.summary) else f": {shown.summary}"
    print_result(f"{shown.kind} {shown.name}{summary}\n\n{shown.text}")
    if shown.facts:
        print_result("\n" + "\n".join(f"{key}: {value}" for key, value in shown.facts.items()))
    if shown.settings:
        print_result("")
        rows = [
            [setting.name, "required" if setting.required else _default(setting.default), setting.type, setting.meaning]
            for setting in shown.settings
        ]
        print_columns(["Setting", "Default", "Values", "Meaning"], rows)
    if shown.labels:
        print_result("")
        rows = [[name, label.title, label.better or "-", label.explain] for name, label in shown.labels.items()]
        print_columns(["Headline", "Title", "Better", "Meaning"], rows)
    if shown.paper:
        print_result(f"\nPaper: {shown.paper}")


def _default(value: Any) -> str:
    """Format a default value as a recipe writes it; a long list would squeeze the other columns of the table."""
    import yaml

    text = yaml.safe_dump(plain(value), default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return f"{len(value)} values" if isinstance(value, list | tuple) and len(text) > 120 else text

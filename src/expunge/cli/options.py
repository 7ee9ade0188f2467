"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli.logging import stay_local

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings that replace the recipe's, such as train.lr=1e-5."),
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a packaged recipe, or a YAML file.")]
RunsFolder = Annotated[str, typer.Option("--runs", help="Folder of all runs.")]
DataName = Annotated[
    str | None, typer.Option("--data", help="TOFU's folder or hub id, a file of rows, or 'synthetic'.")
]
Split = Annotated[str | None, typer.Option("--split", help="Split of TOFU (default: forget10).")]
MemberSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the benchmark or audit, or of a recipe's section: model.dtype=..., prompt.system=...",
    ),
]

_SECTIONS = ("model", "data", "prompt", "evaluate")


def split_settings(settings: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse the values of `--set` into the settings of the benchmark or audit, and the recipe's sections by name."""
    from expunge.config.load import override

    data: dict[str, Any] = {}
    override(data, settings)
    sections = {name: data.pop(name) for name in _SECTIONS if isinstance(data.get(name), dict)}
    return data, sections


def work_offline_if_needed(*names: str | None) -> None:
    """Check that the hub is reachable if one of these models or data sets is not on this machine."""
    if any(name is not None and not Path(name).exists() for name in names):
        stay_local()

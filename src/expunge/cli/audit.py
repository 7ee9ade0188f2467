"""`expunge audit`: attack a finished model and its controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.evaluate import split_settings
from expunge.cli.logging import stay_local
from expunge.cli.output import AsJson, print_columns, print_json, results_only
from expunge.console import print_result
from expunge.errors import Interrupted


def audit(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run's folder, a model's folder or a hub id.")],
    name: Annotated[str, typer.Option("--audit", help="Name, or a Python file.")] = "leaks",
    target: Annotated[str | None, typer.Option(help="The model before unlearning (default: the run's).")] = None,
    retain_model: Annotated[str | None, typer.Option(help="A model that never saw the forget set.")] = None,
    base: Annotated[str | None, typer.Option(help="The model before it saw any of the data.")] = None,
    data: Annotated[str | None, typer.Option(help="For a model: TOFU's folder or hub id, or a file of rows.")] = None,
    split: Annotated[str | None, typer.Option(help="For a model: TOFU's split.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the audit, or model.dtype=..., prompt.style=..."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder for record and transcripts (default: the run's).")] = None,
    as_json: AsJson = False,
) -> None:
    """Attack a model, and run the same attack on its controls."""
    if any(place is not None and not Path(place).exists() for place in (model, target, retain_model, base, data)):
        stay_local()
    from expunge.commands.audit import audit as attack
    from expunge.commands.evaluate import data_section

    own, sections = split_settings(settings or [])
    controls = {"target": target, "retain": retain_model, "base": base}
    config = {
        **sections,
        "model": {"name": model, **sections.get("model", {})},
        "audit": {"name": name, **own},
        "controls": {role: path for role, path in controls.items() if path is not None},
        "data": data_section(data, split, sections.get("data", {})),
    }
    with results_only():
        try:
            result = attack(config, out=out)
        except Interrupted as error:
            raise Interrupted("in the run's folder, answer by answer") from error
    if as_json:
        print_json(result)
        return
    from expunge.records.format import format_value
    from expunge.report.tables import role_title

    arms = list(result.arms)
    print_columns(
        ["Number", *(role_title(arm) for arm in arms)],
        [[number, *(format_value(by_arm[arm]) for arm in arms)] for number, by_arm in result.values.items()],
    )
    print_result(result.verdict)
    for line in result.notes:
        print_result(line)
    if result.samples:
        print_result(f"Transcripts: {Path(out or model) / result.samples}")

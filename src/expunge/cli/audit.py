"""`expunge audit`: attack a finished model and its controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import AsJson, DataName, MemberSettings, Split, split_settings, work_offline_if_needed
from expunge.cli.output import print_columns, print_json, results_only
from expunge.console import print_result
from expunge.errors import Interrupted


def audit(
    model: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="Folder of a run, folder of a model, or hub id.")
    ],
    name: Annotated[str, typer.Option("--audit", help="Name of an audit, or a Python file.")] = "leaks",
    target: Annotated[
        str | None, typer.Option(help="Control: the model before unlearning (default: the run's).")
    ] = None,
    retain_model: Annotated[
        str | None, typer.Option(help="Control: a model that never saw the forget set (default: the run's).")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Control: the model before it saw any of the data.")] = None,
    data: DataName = None,
    split: Split = None,
    settings: MemberSettings = None,
    out: Annotated[str | None, typer.Option(help="Folder for record and transcripts (default: the run's).")] = None,
    as_json: AsJson = False,
) -> None:
    """Attack a model, and run the same attack on its controls."""
    work_offline_if_needed(model, target, retain_model, base, data)
    from expunge.commands import audit
    from expunge.commands.evaluate import data_section

    audit_settings, sections = split_settings(settings or [])
    controls = {"target": target, "retain": retain_model, "base": base}
    config = {
        **sections,
        "model": {"name": model, **sections.get("model", {})},
        "audit": {"name": name, **audit_settings},
        "controls": {role: path for role, path in controls.items() if path is not None},
        "data": data_section(data, split, sections.get("data", {})),
    }
    with results_only():
        try:
            result = audit.audit(config, out=out)
        except Interrupted as error:
            raise Interrupted("in the run's folder, answer by answer") from error
    if as_json:
        print_json(result)
        return
    from expunge.records.format import format_value
    from expunge.report.tables import role_title

    arms = list(result.arms)
    print_columns(
        ["Metric", *(role_title(arm) for arm in arms)],
        [[metric, *(format_value(by_arm[arm]) for arm in arms)] for metric, by_arm in result.values.items()],
    )
    print_result(result.verdict)
    for line in result.notes:
        print_result(line)
    if result.samples:
        print_result(f"Transcripts: {Path(out or model) / result.samples}")

"""`expunge import`: read logs and configurations of OpenUnlearning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.options import AsJson
from expunge.cli.output import print_columns, print_json, results_only
from expunge.console import note, print_result

if TYPE_CHECKING:
    from expunge.commands.openunlearning.logs import ImportedLog


def import_openunlearning(
    path: Annotated[
        Path, typer.Argument(help="TOFU_EVAL.json, *_SUMMARY.json, a configuration (.yaml), or a folder of them.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="As for its train.py: trainer=NPO, forget_split=forget05."),
    ] = None,
    retain_model: Annotated[Path | None, typer.Option(help="TOFU_EVAL.json of the retain model.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="GPUs of its training, which multiply the batch.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the recipe to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import logs and configurations of OpenUnlearning.

    A log is printed with our names, computed again from its rows where it has any; a configuration becomes a recipe,
    and every key without a counterpart is named.
    """
    from expunge.commands.openunlearning import importing

    with results_only():
        imported = importing.import_path(path, overrides or [], retain_model=retain_model, processes=processes, out=out)
    if as_json:
        print_json({"logs": imported.logs, "recipe": imported.recipe})
        return
    for log in imported.logs:
        _print_log(log)
    if imported.recipe is not None:
        if out is None:
            print_result(imported.recipe.text(str(path)).rstrip())
        else:
            print_result(f"Wrote {out}. Next: expunge check {out}")
            note(
                f"{len(imported.recipe.without_counterpart)} keys have no counterpart; comments in the file name them."
            )
    for config in imported.configs:
        note(f"{config} is a configuration: `expunge import {config}` converts it to a recipe.")


def _print_log(log: ImportedLog) -> None:
    from expunge.records import Value
    from expunge.records.format import format_value
    from expunge.report.tables import metric_title

    computed = {} if log.computed is None else {**log.computed.metrics, **log.computed.headlines}
    absent = Value.missing("a TOFU_EVAL.json with rows")
    print_result(f"{log.path} ({log.result.title})")
    rows = []
    for name in (*log.result.headlines, *log.result.metrics):
        stored = format_value(log.stored[name]) if name in log.stored else ""
        again = format_value(computed.get(name, absent)) if log.computed is not None else ""
        rows.append([metric_title(name, log.result.labels), stored, again])
    columns = [0, *([1] if log.stored else []), *([2] if log.computed is not None else [])]
    header = ["Metric", "As stored", "Computed from its rows"]
    print_columns([header[i] for i in columns], [[row[i] for i in columns] for row in rows])
    if log.unknown:
        print_result(f"Without a counterpart: {', '.join(log.unknown)}")
    if log.usable_as_retain_model:
        note(f"If it is the retain model's: model.retain_model={log.path}")

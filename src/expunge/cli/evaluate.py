"""`expunge evaluate`: measure any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import AsJson, DataName, MemberSettings, Split, split_settings, work_offline_if_needed
from expunge.cli.output import print_headlines, print_measured, results_only
from expunge.console import print_result
from expunge.errors import Interrupted


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id.")],
    benchmark: Annotated[str, typer.Option(help="Name of a benchmark, or a Python file.")] = "tofu",
    data: DataName = None,
    split: Split = None,
    retain_model: Annotated[str | None, typer.Option(help="Retain model, or its stored evaluation (.json).")] = None,
    settings: MemberSettings = None,
    out: Annotated[str | None, typer.Option(help="Folder for the result and its per-sample rows.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model, and compare it with a retain model."""
    work_offline_if_needed(model, retain_model, data or "locuslab/TOFU")
    from expunge.commands import evaluate

    benchmark_settings, sections = split_settings(settings or [])
    model_section = {"name": model, **({"retain_model": retain_model} if retain_model else {})}
    config = {
        **sections,
        "model": {**model_section, **sections.get("model", {})},
        "benchmark": {"name": benchmark, **benchmark_settings},
        "data": evaluate.data_section(data, split, sections.get("data", {})),
    }
    with results_only():
        try:
            result = evaluate.evaluate(config, out=out)
        except Interrupted as error:
            raise Interrupted(f"in {out}" if out else "lost, because no folder was given (--out)") from error
    if as_json:
        print_measured(result)
        return
    print_headlines(result)
    if out is not None:
        print_result(f"Result: {Path(out) / 'results' / f'model-{result.benchmark}.json'}")

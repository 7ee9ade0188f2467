"""`expunge evaluate`: measure any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli.logging import stay_local
from expunge.cli.output import AsJson, print_headlines, print_measured, results_only
from expunge.console import print_result
from expunge.errors import Interrupted

_SECTIONS = ("model", "data", "prompt", "evaluate")


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id.")],
    benchmark: Annotated[str, typer.Option(help="Name, or a Python file.")] = "tofu",
    data: Annotated[str | None, typer.Option(help="TOFU's folder or hub id, a file of rows, or 'synthetic'.")] = None,
    split: Annotated[str | None, typer.Option(help="TOFU's split; forget10 if not given.")] = None,
    retain_model: Annotated[str | None, typer.Option(help="Retain model, or its stored evaluation (.json).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the benchmark, or of a recipe's section (prompt.system=..., model.dtype=...).",
        ),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder for the result and its per-sample records.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model, and compare it with a retain model."""
    if any(name is not None and not Path(name).exists() for name in (model, retain_model, data or "locuslab/TOFU")):
        stay_local()
    from expunge.commands.evaluate import data_section
    from expunge.commands.evaluate import evaluate as measure

    own, sections = split_settings(settings or [])
    model_section = {"name": model, **({"retain_model": retain_model} if retain_model else {})}
    config = {
        **sections,
        "model": {**model_section, **sections.get("model", {})},
        "benchmark": {"name": benchmark, **own},
        "data": data_section(data, split, sections.get("data", {})),
    }
    with results_only():
        try:
            result = measure(config, out=out)
        except Interrupted as error:
            raise Interrupted(f"in {out}" if out else "not kept, because there is no --out") from error
    if as_json:
        print_measured(result)
        return
    print_headlines(result)
    if out is not None:
        print_result(f"Result: {Path(out) / 'results' / f'model-{result.benchmark}.json'}")


def split_settings(settings: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the benchmark, and those of sections by section."""
    from expunge.config.load import override

    data: dict[str, Any] = {}
    override(data, settings)
    sections = {name: data.pop(name) for name in _SECTIONS if isinstance(data.get(name), dict)}
    return data, sections

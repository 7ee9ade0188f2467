"""`expunge score-log`: compute metrics from a stored evaluation."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.options import AsJson
from expunge.cli.output import print_headlines, print_measured, results_only


def score_log(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Stored evaluation of TOFU (.json).")],
    retain_model: Annotated[str | None, typer.Option(help="Stored evaluation of the retain model (.json).")] = None,
    split: Annotated[str | None, typer.Option(help="forget01, forget05 or forget10.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the benchmark, such as ds_size=300."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a stored evaluation of TOFU.

    Computes forget quality and model utility without a model.
    """
    from expunge.commands import score_log
    from expunge.config.load import override

    benchmark_settings: dict[str, object] = {}
    override(benchmark_settings, settings or [])
    with results_only():
        result = score_log.score_log(log, retain_model, split=split, settings=benchmark_settings)
    print_measured(result) if as_json else print_headlines(result)

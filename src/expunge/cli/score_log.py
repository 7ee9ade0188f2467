"""`expunge score-log`: numbers from a stored evaluation."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.output import AsJson, print_headlines, print_measured, results_only


def score_log(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Stored TOFU evaluation (.json).")],
    retain_model: Annotated[str | None, typer.Option(help="That of the retain model (.json).")] = None,
    split: Annotated[str | None, typer.Option(help="forget01, forget05 or forget10.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the benchmark, such as ds_size=300."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a stored TOFU evaluation.

    Forget quality and model utility, without any model.
    """
    from expunge.commands.score_log import score_log as score
    from expunge.config.load import override

    own: dict[str, object] = {}
    override(own, settings or [])
    with results_only():
        result = score(log, retain_model, split=split, settings=own)
    print_measured(result) if as_json else print_headlines(result)

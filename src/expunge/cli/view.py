"""`expunge view`: browse runs in a web page."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from expunge.console import note


def view(
    runs: Annotated[str, typer.Argument(metavar="[RUNS]", help="Folder of runs.")] = "runs",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for a free one.")] = 7117,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address without opening a browser.")] = False,
) -> None:
    """Browse runs in a local web page: reports, comparisons, samples, progress, and a chat with the models."""
    from expunge.errors import MissingExtraError

    try:
        from expunge.view.server import serve
    except ModuleNotFoundError as error:
        if error.name not in {"starlette", "uvicorn"}:
            raise
        raise MissingExtraError(error.name, "view", "expunge view") from error
    with contextlib.suppress(KeyboardInterrupt):
        serve(Path(runs), port, browser=not no_open)
    note("Stopped.")

"""`expunge init`: write a recipe to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.console import print_result


def init(
    path: Annotated[str, typer.Argument(help="File to write.")] = "recipe.yaml",
    source: Annotated[
        str | None, typer.Option("--from", metavar="RECIPE", help="Packaged recipe to copy, with its comments.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a recipe in which every setting is explained."""
    from expunge.commands import init

    written = init.init(path, source, force=force)
    print_result(f"Wrote {written}. Next: expunge check {written}")

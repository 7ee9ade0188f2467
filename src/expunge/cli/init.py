"""`expunge init`: a recipe to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.console import print_result


def init(
    path: Annotated[str, typer.Argument(help="File to write.")] = "recipe.yaml",
    source: Annotated[str | None, typer.Option("--from", metavar="RECIPE", help="Copy a packaged recipe.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a recipe with every setting explained."""
    from expunge.commands.init import init as write

    place = write(path, source, force=force)
    print_result(f"Wrote {place}. Next: expunge check {place}")

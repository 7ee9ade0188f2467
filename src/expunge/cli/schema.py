"""`expunge schema`: print the JSON schema of a recipe, for editors that complete and check YAML."""

from __future__ import annotations

from expunge.cli.output import print_json, results_only


def schema() -> None:
    """Print the JSON schema of a recipe."""
    from expunge.commands import show

    with results_only():
        result = show.schema()
    print_json(result)

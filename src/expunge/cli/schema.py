"""`expunge schema`: for editors that complete and check YAML."""

from __future__ import annotations

from expunge.cli.output import print_json, results_only


def schema() -> None:
    """Print the JSON schema of a recipe."""
    from expunge.commands.show import schema as make

    with results_only():
        result = make()
    print_json(result)

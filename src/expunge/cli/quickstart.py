"""`expunge quickstart`: the packaged recipe that needs no download."""

from __future__ import annotations

from expunge.cli.output import AsJson, Overrides, RunsFolder
from expunge.cli.run import execute


def quickstart(overrides: Overrides = None, runs: RunsFolder = "runs", as_json: AsJson = False) -> None:
    """See it all on a small model, in minutes.

    A model is trained on fictitious people, made to forget a tenth of them, and measured.
    Nothing is downloaded.
    """
    execute("quickstart", overrides or [], runs, as_json)

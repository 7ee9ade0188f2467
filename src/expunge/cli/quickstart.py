"""`expunge quickstart`: run the packaged recipe that needs no download."""

from __future__ import annotations

from expunge.cli.options import AsJson, Overrides, RunsFolder
from expunge.cli.run import execute


def quickstart(overrides: Overrides = None, runs: RunsFolder = "runs", as_json: AsJson = False) -> None:
    """Run a complete example on a small model, in minutes.

    Trains a model on fictitious people, makes it forget a tenth of them, and measures the result.
    Nothing is downloaded.
    """
    execute("quickstart", overrides or [], runs, as_json)

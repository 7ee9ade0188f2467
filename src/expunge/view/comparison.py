"""Runs side by side: headlines with intervals, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.records import Value
from expunge.records.format import format_interval, format_note, format_point
from expunge.report.html import differences, incomparable, run_verdict
from expunge.report.load import ROLES, LoadedRun
from expunge.report.tables import headline_rows


def compare(runs: Mapping[str, LoadedRun]) -> dict[str, Any]:
    """Return a comparison of runs, as plain data for the page.

    Args:
        runs: Name -> records.
    """
    rows = {name: {(row.benchmark, row.name): row for row in headline_rows(run)} for name, run in runs.items()}
    labels = {key: row for by_key in rows.values() for key, row in by_key.items()}
    absent = Value.missing("a benchmark of this run that reports it")
    settings = differences({name: run.recipe for name, run in runs.items()})
    return {
        "runs": [{"name": name, "verdict": run_verdict(run).sentence} for name, run in runs.items()],
        "headlines": [
            {
                "benchmark": row.benchmark,
                "title": row.title,
                "explain": row.explain,
                "better": row.better,
                "values": [
                    {role: _cell(rows[name][key].values[role] if key in rows[name] else absent) for role in ROLES}
                    for name in runs
                ],
            }
            for key, row in labels.items()
        ],
        "differences": [{"key": key, "values": [by_run[name] for name in runs]} for key, by_run in settings.items()],
        "incomparable": incomparable(settings),
    }


def _cell(value: Value) -> dict[str, str]:
    return {"point": format_point(value), "interval": format_interval(value), "note": format_note(value)}

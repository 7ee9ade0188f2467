"""`expunge doctor`: what this machine offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.cli.output import AsJson, RunsFolder, print_columns, print_json, results_only
from expunge.console import print_result

if TYPE_CHECKING:
    from expunge.commands.doctor import Diagnosis


def doctor(runs: RunsFolder = "runs", as_json: AsJson = False) -> None:
    """Show what this machine has and lacks."""
    from expunge.commands.doctor import doctor as look

    with results_only():
        found = look(runs)
    print_json(found) if as_json else _print(found)


def _print(found: Diagnosis) -> None:
    gigabyte = 2**30
    devices = [
        f"{each['name']} ({each['memory_bytes'] / gigabyte:.0f} GiB)" if "memory_bytes" in each else each["name"]
        for each in found.devices
    ]
    rows = [
        ["Python", f"{found.python} on {found.platform}"],
        ["Devices", ", ".join(devices) or "none"],
        ["Processor", f"{found.cores} cores, {found.memory_bytes / gigabyte:.0f} GiB of memory"],
        ["Packages", ", ".join(f"{name} {version or 'MISSING'}" for name, version in found.packages.items())],
        [
            "Extras",
            ", ".join(f"{name} ({'yes' if ok else 'no'})" for name, ok in found.extras.items()) or "none",
        ],
        ["Disk", f"{found.disk_free_bytes / gigabyte:.0f} GiB free for {found.runs}"],
        ["Hub", "reachable" if found.hub else "out of reach"],
    ]
    print_columns(["What", "Found"], rows)
    for problem in found.problems:
        print_result(f"Missing: {problem}.")
    if not found.problems:
        print_result("Nothing is missing.")

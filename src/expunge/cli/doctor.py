"""`expunge doctor`: describe this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.cli.options import AsJson, RunsFolder
from expunge.cli.output import print_columns, print_json, results_only
from expunge.console import print_result

if TYPE_CHECKING:
    from expunge.commands.doctor import Diagnosis


def doctor(runs: RunsFolder = "runs", as_json: AsJson = False) -> None:
    """Show what this machine has and lacks."""
    from expunge.commands import doctor

    with results_only():
        diagnosis = doctor.doctor(runs)
    print_json(diagnosis) if as_json else _print(diagnosis)


def _print(diagnosis: Diagnosis) -> None:
    gigabyte = 2**30
    devices = [
        f"{device['name']} ({device['memory_bytes'] / gigabyte:.0f} GiB)"
        if "memory_bytes" in device
        else device["name"]
        for device in diagnosis.devices
    ]
    packages = [f"{name} {version or 'MISSING'}" for name, version in diagnosis.packages.items()]
    extras = [f"{name} ({'yes' if installed else 'no'})" for name, installed in diagnosis.extras.items()]
    rows = [
        ["Python", f"{diagnosis.python} on {diagnosis.platform}"],
        ["Devices", ", ".join(devices) or "none"],
        ["CPU", f"{diagnosis.cores} cores, {diagnosis.memory_bytes / gigabyte:.0f} GiB of memory"],
        ["Packages", ", ".join(packages)],
        ["Extras", ", ".join(extras) or "none"],
        ["Disk", f"{diagnosis.disk_free_bytes / gigabyte:.0f} GiB free for {diagnosis.runs}"],
        ["Hub", "reachable" if diagnosis.hub else "not reachable"],
    ]
    print_columns(["Item", "Details"], rows)
    for problem in diagnosis.problems:
        print_result(f"Missing: {problem}.")
    if not diagnosis.problems:
        print_result("Nothing is missing.")

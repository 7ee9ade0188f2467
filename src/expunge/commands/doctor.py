"""What this machine offers: Python, devices, memory, packages, disk space and the hub."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from expunge.records import Record
from expunge.services.hub import hub_reachable


class Diagnosis(Record):
    """Facts about this machine, and what is missing."""

    python: str
    platform: str
    cores: int
    memory_bytes: int
    """Physical memory; 0 where the system does not tell."""
    devices: list[dict[str, Any]]
    packages: dict[str, str]
    """Required package -> version; empty where it is missing."""
    extras: dict[str, bool]
    """Extra of this package -> whether all that it needs is installed."""
    runs: str
    disk_free_bytes: int
    """Free space where runs are kept."""
    hub: bool
    """Whether the model hub can be reached."""
    problems: list[str]
    """What is missing and how to get it."""


def doctor(runs: str | Path = "runs") -> Diagnosis:
    """Look at this machine and say what is missing and how to get it.

    Args:
        runs: Folder in which runs are kept.
    """
    needed = _needed()
    packages = {name: _version(name) for name in needed.pop("", [])}
    devices = _devices() if importlib.util.find_spec("torch") else []
    free, hub = _disk_free(Path(runs)), hub_reachable()
    problems = [
        f"the package {name} is missing: pip install {name}" for name, version in packages.items() if not version
    ]
    if not any(device["kind"] == "cuda" for device in devices):
        problems.append("no CUDA device: small models train on the CPU, models of billions of parameters do not")
    if not hub:
        problems.append("the hub is out of reach: give models and data as local folders")
    if free < 10 * 2**30:
        problems.append(f"less than 10 GiB are free at {runs}: choose another place with --runs")
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        cores=os.cpu_count() or 1,
        memory_bytes=_memory(),
        devices=devices,
        packages=packages,
        extras={extra: all(map(_version, names)) for extra, names in needed.items()},
        runs=str(runs),
        disk_free_bytes=free,
        hub=hub,
        problems=problems,
    )


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [
        {
            "kind": "cuda",
            "name": torch.cuda.get_device_name(index),
            "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
        }
        for index in range(torch.cuda.device_count())
    ]
    return [*devices, {"kind": "cpu", "name": platform.machine(), "threads": torch.get_num_threads()}]


def _memory() -> int:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def _disk_free(path: Path) -> int:
    place = path.resolve()
    while not place.is_dir():
        place = place.parent
    return shutil.disk_usage(place).free


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _needed() -> dict[str, list[str]]:
    """Packages that this one declares: under '' those that it always needs, then by extra."""
    try:
        lines = importlib.metadata.requires("expunge") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    needed: dict[str, list[str]] = {}
    for line in lines:
        package = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra == ['\"]([^'\"]+)", line)
        if package is not None:
            needed.setdefault(extra.group(1) if extra else "", []).append(package.group())
    return needed

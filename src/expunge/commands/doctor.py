"""Diagnose a machine: Python, devices, memory, packages, disk space and the hub."""

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
    """Facts about a machine, and problems."""

    python: str
    platform: str
    cores: int
    memory_bytes: int
    """Physical memory; 0 where the system does not report it."""
    devices: list[dict[str, Any]]
    packages: dict[str, str]
    """Required package -> version; empty where it is missing."""
    extras: dict[str, bool]
    """Extra of this package -> whether all its requirements are installed."""
    runs: str
    disk_free_bytes: int
    """Free space in the folder of runs."""
    hub: bool
    """Whether the model hub can be reached."""
    problems: list[str]
    """Missing parts, and how to get them."""


def doctor(runs: str | Path = "runs") -> Diagnosis:
    """Report facts about this machine, what is missing, and how to get it.

    Args:
        runs: Folder of all runs.
    """
    requirements = _requirements()
    packages = {name: _version(name) for name in requirements.pop("", [])}
    devices = _devices() if importlib.util.find_spec("torch") else []
    free, hub = _disk_free(Path(runs)), hub_reachable()
    problems = [
        f"the package {name} is missing: pip install {name}" for name, version in packages.items() if not version
    ]
    if not any(device["kind"] == "cuda" for device in devices):
        problems.append("no CUDA device: small models train on the CPU, models of billions of parameters do not")
    if not hub:
        problems.append("the hub cannot be reached: use local folders for models and data")
    if free < 10 * 2**30:
        problems.append(f"less than 10 GiB are free at {runs}: choose another folder with --runs")
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        cores=os.cpu_count() or 1,
        memory_bytes=_memory(),
        devices=devices,
        packages=packages,
        extras={extra: all(map(_version, names)) for extra, names in requirements.items()},
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
    existing = path.resolve()
    while not existing.is_dir():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _requirements() -> dict[str, list[str]]:
    """Return the packages that this one declares: extra -> names; '' for those that it always needs."""
    try:
        lines = importlib.metadata.requires("expunge") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    requirements: dict[str, list[str]] = {}
    for line in lines:
        package = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra == ['\"]([^'\"]+)", line)
        if package is not None:
            requirements.setdefault(extra.group(1) if extra else "", []).append(package.group())
    return requirements

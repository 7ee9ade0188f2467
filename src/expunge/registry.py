"""Finds methods, benchmarks, metrics, audits, recipes and sweeps by file name, without importing them.

The name of a file or folder is the member's name in YAML, on the command line, in the docs and in the tests. Nothing
is registered by hand: a file or package in the room is a member of it. A path to a Python file works wherever a name
does.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from expunge.errors import ConfigError, DataError, nearest

_ROOT = Path(__file__).parent
_ROOMS = {"method": "methods", "benchmark": "benchmarks", "audit": "audits", "metric": "metrics"}
_FILES = {"recipe": "recipes", "sweep": "recipes/sweeps"}
_COMMON = {"__init__", "base", "bases", "shared"}
"""Files and folders in a room that hold what its members have in common, and are no members."""
KINDS = (*_ROOMS, *_FILES)


def names(kind: str) -> list[str]:
    """Every name of a kind, sorted; reads the file system only."""
    if kind in _FILES:
        return sorted(path.stem for path in (_ROOT / _FILES[kind]).glob("*.yaml"))
    if kind == "metric":
        return sorted(_metrics())
    room = _ROOT / _ROOMS[kind]
    packages = [path.parent.name for path in room.glob("*/__init__.py")]
    return sorted({*packages, *(path.stem for path in room.glob("*.py"))} - _COMMON)


def summary(kind: str, name: str) -> str:
    """First line of what a member says about itself, read without importing it."""
    if kind in _FILES:
        lines = packaged(kind, name).read_text(encoding="utf-8").splitlines()
        return lines[0].lstrip("# ").strip() if lines and lines[0].startswith("#") else ""
    if kind == "metric":
        return _first_line(ast.get_docstring(_metrics()[name][1]))
    file = _ROOT / _ROOMS[kind] / f"{name}.py"
    if not file.is_file():
        file = _ROOT / _ROOMS[kind] / name / "__init__.py"
    return _first_line(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))


def packaged(kind: str, name: str) -> Path:
    """File of a packaged recipe or sweep.

    Raises:
        ConfigError: None has this name; the message gives the nearest.
    """
    path = _ROOT / _FILES[kind] / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError([f"no {kind} is called '{name}'. {nearest(name, names(kind))}"], source="the name")
    return path


def get(kind: str, name: str) -> Any:
    """The class (for a metric: the function) behind a name or behind a path to a Python file.

    Raises:
        ConfigError: No member has this name; the message gives the nearest.
        DataError: The file cannot be imported or does not define exactly one member.
    """
    if kind == "metric":
        if name not in _metrics():
            raise ConfigError([f"no metric is called '{name}'. {nearest(name, names(kind))}"], source="the name")
        return getattr(importlib.import_module(f"expunge.metrics.{_metrics()[name][0]}"), name)
    if name.endswith(".py"):
        module = _import_file(Path(name))
    elif name in names(kind):
        module = importlib.import_module(f"expunge.{_ROOMS[kind]}.{name}")
    else:
        raise ConfigError(
            [f"no {kind} is called '{name}'. {nearest(name, names(kind))} A path to a .py file works too."],
            source="the name",
        )
    base = getattr(importlib.import_module(f"expunge.{_ROOMS[kind]}.base"), kind.capitalize())
    members = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and (value.__module__ == module.__name__ or value.__module__.startswith(f"{module.__name__}."))
    ]
    public = [member for member in members if not member.__name__.startswith("_")]
    if len(public) != 1:
        raise DataError(
            f"{name} defines {len(public)} public subclasses of {base.__name__}, but a {kind} file has exactly one."
        )
    return public[0]


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist.", fix="Give the path to a Python file that defines one class.")
    name = f"expunge_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DataError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


@functools.cache
def _metrics() -> dict[str, tuple[str, ast.FunctionDef]]:
    found: dict[str, tuple[str, ast.FunctionDef]] = {}
    for path in sorted((_ROOT / "metrics").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "metric"
                for mark in node.decorator_list
            ):
                found[node.name] = (path.stem, node)
    return found


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n", 1)[0]

"""Find methods, benchmarks, metrics, audits, recipes and sweeps by file name, without importing them.

The name of a file or package in one of the folders below is the name of the member in YAML, on the command line, in
the documentation and in the tests; there is no list of members to maintain. The path of a Python file is accepted
wherever a name is.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from expunge.errors import ConfigError, DataError, nearest

_ROOT = Path(__file__).parent
_PACKAGES = {"method": "methods", "benchmark": "benchmarks", "audit": "audits", "metric": "metrics"}
_FILES = {"recipe": "recipes", "sweep": "recipes/sweeps"}
_COMMON = {"__init__", "base", "bases", "shared"}
"""Files and folders of a package that members have in common, and that are no members."""
KINDS = (*_PACKAGES, *_FILES)


def names(kind: str) -> list[str]:
    """Return all names of a kind, sorted, from the file system alone."""
    if kind in _FILES:
        return sorted(path.stem for path in (_ROOT / _FILES[kind]).glob("*.yaml"))
    if kind == "metric":
        return sorted(_metrics())
    folder = _ROOT / _PACKAGES[kind]
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted({*packages, *(path.stem for path in folder.glob("*.py"))} - _COMMON)


def row_metrics() -> list[str]:
    """Return the names of the packaged metrics of single rows, which `evaluate.metrics` accepts."""
    return sorted(
        name
        for name, (_, function) in _metrics().items()
        if any(keyword.arg == "needs" for mark in _metric_marks(function) for keyword in mark.keywords)
    )


def summary(kind: str, name: str) -> str:
    """Return the first line of the documentation of a packaged member, without importing it."""
    if kind in _FILES:
        lines = packaged(kind, name).read_text(encoding="utf-8").splitlines()
        return lines[0].lstrip("# ").strip() if lines and lines[0].startswith("#") else ""
    if kind == "metric":
        return _first_line(ast.get_docstring(_metrics()[name][1]))
    path = _ROOT / _PACKAGES[kind] / f"{name}.py"
    if not path.is_file():
        path = _ROOT / _PACKAGES[kind] / name / "__init__.py"
    return _first_line(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def packaged(kind: str, name: str) -> Path:
    """Return the file of a packaged recipe or sweep.

    Raises:
        ConfigError: No packaged file has this name; the message names the nearest.
    """
    path = _ROOT / _FILES[kind] / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError([f"no {kind} is called '{name}'. {nearest(name, names(kind))}"], source="the name")
    return path


def get(kind: str, name: str) -> Any:
    """Return the class of a method, benchmark or audit, or the function of a metric.

    Args:
        kind: 'method', 'benchmark', 'audit' or 'metric'.
        name: Name of a packaged member, or path of a Python file that defines one.

    Raises:
        ConfigError: No member has this name; the message names the nearest.
        DataError: The file cannot be imported, or does not define exactly one member of this kind.
    """
    if name.endswith(".py"):
        defined, member = get_from_file(Path(name))
        if defined != kind:
            raise DataError(f"{name} defines the {defined} {member.__name__}, not a {kind}.")
        return member
    if name not in names(kind):
        raise ConfigError(
            [f"no {kind} is called '{name}'. {nearest(name, names(kind))} A path to a .py file is accepted too."],
            source="the name",
        )
    if kind == "metric":
        return getattr(importlib.import_module(f"expunge.metrics.{_metrics()[name][0]}"), name)
    (_, member) = _members(importlib.import_module(f"expunge.{_PACKAGES[kind]}.{name}"))[0]
    return member


def get_from_file(path: Path) -> tuple[str, Any]:
    """Return the member that a Python file defines, with its kind.

    A member is a public subclass of Method, Benchmark or Audit, or a public function with the decorator `metric`.

    Raises:
        DataError: The file does not exist, cannot be imported, or does not define exactly one member.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist.", fix="Give the path of a Python file.")
    stat = path.stat()
    members = _members(_import_file(path.resolve(), (stat.st_mtime_ns, stat.st_size)))
    if not members:
        raise DataError(
            f"{path} defines no method, benchmark, audit or metric.",
            fix="Define one subclass of Method, Benchmark or Audit, or one function with the decorator @metric(...).",
        )
    if len(members) > 1:
        described = ", ".join(f"the {kind} {member.__name__}" for kind, member in members)
        raise DataError(
            f"{path} defines {len(members)} members ({described}), but a file must define exactly one.",
            fix="Move the others to files of their own, or begin their names with an underscore.",
        )
    return members[0]


@functools.lru_cache(maxsize=64)
def _import_file(path: Path, version: tuple[int, int]) -> ModuleType:
    """Import a file once per version (modification time and size), since a run resolves its members repeatedly."""
    name = f"expunge_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise DataError(f"{error.filename or path}{line} is not valid Python: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        raise DataError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _members(module: ModuleType) -> list[tuple[str, Any]]:
    """Return the public members that a module, or a package with its modules, defines: (kind, class or function)."""
    bases = {
        kind: getattr(importlib.import_module(f"expunge.{package}.base"), kind.capitalize())
        for kind, package in _PACKAGES.items()
        if kind != "metric"
    }
    metric_spec = importlib.import_module("expunge.metrics.base").MetricSpec
    members: list[tuple[str, Any]] = []
    for name, value in vars(module).items():
        defined_in = getattr(value, "__module__", None) or ""
        imported = not f"{defined_in}.".startswith(f"{module.__name__}.")
        if imported or name.startswith("_") or any(value is member for _, member in members):
            continue
        if isinstance(value, type):
            members += [(kind, value) for kind, base in bases.items() if issubclass(value, base)]
        elif isinstance(getattr(value, "spec", None), metric_spec):
            members.append(("metric", value))
    return members


@functools.cache
def _metrics() -> dict[str, tuple[str, ast.FunctionDef]]:
    """Return the packaged metrics: name -> (module, definition)."""
    return {
        node.name: (path.stem, node)
        for path in sorted((_ROOT / "metrics").glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and _metric_marks(node)
    }


def _metric_marks(function: ast.FunctionDef) -> list[ast.Call]:
    """Return the decorators `@metric(...)` of a function."""
    return [
        mark
        for mark in function.decorator_list
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "metric"
    ]


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n", 1)[0]

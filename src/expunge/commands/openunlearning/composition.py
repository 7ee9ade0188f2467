"""Read configurations of OpenUnlearning: those that Hydra composed, and single files with their defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.config.load import override, read_yaml

_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_.]+)\}")
_PACKAGE = re.compile(r"#\s*@package\s+(\S+)")
MISSING = "???"
"""A value that a configuration leaves to the command line."""
_GROUPS = ("trainer", "model", "data", "eval", "collator")
"""Keys whose value on the command line selects a file."""


@dataclass
class Composition:
    """A configuration with everything that its defaults name and that was found."""

    data: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    """Group -> selected file, such as {'trainer': 'NPO'}."""
    unread: list[str] = field(default_factory=list)
    """Files that defaults name and that do not exist."""


def compose(path: Path, overrides: Sequence[str] = ()) -> Composition:
    """Read a configuration, the files that its defaults name, and resolve references such as ${forget_split}.

    Defaults are looked up beside the file and, by group, in the nearest folder above it that is called `configs`.

    Args:
        path: `.hydra/config.yaml` of a run, an experiment, or a trainer's file.
        overrides: As on its command line: `trainer=NPO` selects a file, `trainer.args.learning_rate=1e-5` sets a value.

    Raises:
        ConfigError: A file is not valid YAML, or an override has no value.
    """
    selections = dict(word.split("=", 1) for word in overrides if word.partition("=")[0] in _GROUPS)
    settings: dict[str, Any] = {}
    override(settings, [word for word in overrides if word.partition("=")[0] not in _GROUPS])
    composition = Composition()
    root = next((folder for folder in path.parents if folder.name == "configs"), path.parent)
    data = _read(path, root, selections, composition)
    _merge(data, settings)
    composition.data = _resolve(data, data)
    return composition


def _read(path: Path, root: Path, selected: Mapping[str, str], composition: Composition) -> dict[str, Any]:
    """Return a file's values on top of those of its defaults."""
    own = read_yaml(path)
    merged: dict[str, Any] = {}
    for entry in own.pop("defaults", []):
        if isinstance(entry, str):
            if entry != "_self_":
                _merge(merged, _read_or_list(path.parent / f"{entry}.yaml", entry, root, selected, composition))
            continue
        for key, name in entry.items():
            group, _, package = str(key).removeprefix("override ").partition("@")
            folder = root / group.strip("/") if group.startswith("/") else path.parent / group
            group = group.strip("/")
            name = selected.get(group, name)
            # A list selects metrics, which its benchmarks do not need to name here.
            if not isinstance(name, str):
                continue
            composition.choices[group] = name
            file = folder / f"{name}.yaml"
            values = _read_or_list(file, f"{group}/{name}", root, selected, composition)
            _merge(merged, _nest(package or _package_of(file) or group.replace("/", "."), values))
    _merge(merged, own)
    return merged


def _read_or_list(
    path: Path, name: str, root: Path, selected: Mapping[str, str], composition: Composition
) -> dict[str, Any]:
    if path.is_file():
        return _read(path, root, selected, composition)
    composition.unread.append(name)
    return {}


def _package_of(path: Path) -> str:
    """Return where a file's values belong according to its first line; empty if it does not state it."""
    if not path.is_file():
        return ""
    match = _PACKAGE.match(path.read_text(encoding="utf-8"))
    return match[1] if match else ""


def _nest(package: str, values: dict[str, Any]) -> dict[str, Any]:
    if package == "_global_":
        return values
    for name in reversed(package.split(".")):
        values = {name: values}
    return values


def _merge(data: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put the values of another mapping on top, level by level, in place."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            _merge(data[key], value)
        else:
            data[key] = value


def _resolve(value: Any, root: Mapping[str, Any]) -> Any:
    """Return the value with references to other keys replaced; those that lead nowhere stay as they are."""
    if isinstance(value, dict):
        return {key: _resolve(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, root) for item in value]
    if not isinstance(value, str):
        return value
    if match := _REFERENCE.fullmatch(value):
        target = _look_up(root, match[1])
        return value if target is None or target == value else _resolve(target, root)
    return _REFERENCE.sub(lambda match: str(_look_up(root, match[1]) or match[0]), value)


def _look_up(root: Mapping[str, Any], dotted: str) -> Any:
    value: Any = root
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value

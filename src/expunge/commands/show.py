"""What there is to choose from: lists of names, and what one name stands for."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import Field

from expunge import registry
from expunge.config.recipe import Recipe
from expunge.errors import ConfigError, nearest
from expunge.records import Record


class Entry(Record):
    """One name in a list."""

    kind: str
    name: str
    summary: str


class Setting(Record):
    """One setting of a method or benchmark."""

    name: str
    type: str
    default: Any
    """None where there is none."""
    required: bool
    meaning: str


class Shown(Record):
    """What a name stands for."""

    kind: str
    name: str
    summary: str
    text: str
    """The explanation with its formula; for a recipe or a sweep its YAML."""
    settings: list[Setting] = Field(default_factory=list)
    paper: str = ""
    facts: dict[str, str] = Field(default_factory=dict)
    """Metrics: unit, which direction is good, smallest and largest value."""


def ls(kind: str | None = None) -> list[Entry]:
    """Everything that can be named in a recipe, or one kind of it; imports none of it.

    Args:
        kind: 'methods', 'benchmarks', 'metrics', 'audits', 'recipes' or 'sweeps', or their singular; None for all.

    Raises:
        ConfigError: There is no such kind.
    """
    plural = {f"{name}s": name for name in registry.KINDS}
    if kind is not None and kind not in plural and kind not in registry.KINDS:
        raise ConfigError([f"there is no kind '{kind}'. {nearest(kind, plural)}"], source="the name")
    kinds = registry.KINDS if kind is None else (plural.get(kind, kind),)
    return [
        Entry(kind=each, name=name, summary=registry.summary(each, name))
        for each in kinds
        for name in registry.names(each)
    ]


def show(name: str) -> list[Shown]:
    """What a name stands for; more than one answer where two kinds share it.

    Args:
        name: Name of a method, benchmark, metric, audit, recipe or sweep, or a path to a Python or YAML file.

    Raises:
        ConfigError: Nothing has this name; the message gives the nearest.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return [_file("recipe", name, path)]
    if path.suffix == ".py":
        return [_member("method", name)]
    found = [kind for kind in registry.KINDS if name in registry.names(kind)]
    if not found:
        everything = {each for kind in registry.KINDS for each in registry.names(kind)}
        raise ConfigError([f"nothing is called '{name}'. {nearest(name, everything)}"], source="the name")
    return [_shown(kind, name) for kind in found]


def schema() -> dict[str, Any]:
    """JSON schema of a recipe, with the settings of every packaged method and benchmark, for editors."""
    result = Recipe.model_json_schema()
    properties, definitions = result["properties"], result["$defs"]
    properties["method"] = {"anyOf": _member_schemas("method", definitions)}
    evaluate = definitions["Evaluate"]["properties"]
    evaluate["benchmarks"]["items"] = {"anyOf": _member_schemas("benchmark", definitions)}
    return result


def _member_schemas(kind: str, definitions: dict[str, Any]) -> list[dict[str, Any]]:
    options: list[dict[str, Any]] = [
        {"type": "string", "anyOf": [{"enum": registry.names(kind)}, {"pattern": r"\.py$"}]},
        {"type": "object", "properties": {"name": {"pattern": r"\.py$"}}, "required": ["name"]},
    ]
    for name in registry.names(kind):
        member = registry.get(kind, name).model_json_schema()
        definitions.update(member.pop("$defs", {}))
        member["properties"] = {"name": {"const": name}, **member.get("properties", {})}
        member["required"] = ["name", *member.get("required", [])]
        definitions[f"{kind}-{name}"] = member
        options.append({"$ref": f"#/$defs/{kind}-{name}"})
    return options


def _shown(kind: str, name: str) -> Shown:
    if kind in {"recipe", "sweep"}:
        return _file(kind, name, registry.packaged(kind, name))
    return _metric(name) if kind == "metric" else _member(kind, name)


def _file(kind: str, name: str, path: Path) -> Shown:
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0] if text else ""
    return Shown(kind=kind, name=name, summary=first.lstrip("# ") if first.startswith("#") else "", text=text)


def _metric(name: str) -> Shown:
    function = registry.get("metric", name)
    spec = function.spec
    low, high = spec.range
    return Shown(
        kind="metric",
        name=name,
        summary=registry.summary("metric", name),
        text=inspect.getdoc(function) or "",
        facts={
            "unit": spec.unit or "none",
            "better": spec.better or "depends",
            "range": f"{low:g} to {high:g}",
        },
    )


def _member(kind: str, name: str) -> Shown:
    cls = registry.get(kind, name)
    doc = inspect.getdoc(cls) or ""
    settings = [
        Setting(
            name=key,
            type=type_name(field.annotation),
            default=None if field.is_required() else field.get_default(call_default_factory=True),
            required=field.is_required(),
            meaning=" ".join((field.description or "").split()),
        )
        for key, field in cls.model_fields.items()
    ]
    summary = registry.summary(kind, name) if name in registry.names(kind) else doc.split("\n", 1)[0]
    return Shown(kind=kind, name=name, summary=summary, text=doc, settings=settings, paper=cls.paper)


def type_name(annotation: Any) -> str:
    """A type as a user would say it: 'number', 'text', or the allowed values."""
    plain = {float: "number", int: "whole number", str: "text", bool: "true or false", type(None): "null"}
    if annotation in plain:
        return plain[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(map(str, arguments))
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(type_name(part) for part in arguments)
    if origin in {list, tuple}:
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if origin is dict:
        return "mapping"
    return getattr(annotation, "__name__", str(annotation)).lower()

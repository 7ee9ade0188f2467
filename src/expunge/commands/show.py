"""List what a recipe can name, and explain one name."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from expunge import registry
from expunge.config.load import read_yaml
from expunge.config.members import Member
from expunge.config.recipe import Recipe
from expunge.errors import ConfigError, nearest
from expunge.metrics.base import MetricSpec
from expunge.records import Label, Record


class Entry(Record):
    """One name in a list."""

    kind: str
    name: str
    summary: str


class Setting(Record):
    """One setting of a method, benchmark or audit."""

    name: str
    type: str
    default: Any
    """Default value; None for a required setting."""
    required: bool
    meaning: str


class Shown(Record):
    """Explanation of one name."""

    kind: str
    name: str
    summary: str
    text: str
    """Documentation with the formula; for a recipe or a sweep its YAML."""
    settings: list[Setting] = Field(default_factory=list)
    paper: str = ""
    facts: dict[str, str] = Field(default_factory=dict)
    """Metrics: unit, direction, range and columns. Methods: sets and reference. Benchmarks: columns of the rows."""
    labels: dict[str, Label] = Field(default_factory=dict)
    """Benchmarks: headlines."""
    deviations: list[str] = Field(default_factory=list)
    """Recipes: known differences from the experiment that they repeat; they are in the YAML, too."""


def ls(kind: str | None = None) -> list[Entry]:
    """List everything that can be named in a recipe, or one kind of it; imports none of it.

    Args:
        kind: 'methods', 'benchmarks', 'metrics', 'audits', 'recipes' or 'sweeps', or their singular; None for all.

    Raises:
        ConfigError: There is no such kind.
    """
    plural = {f"{name}s": name for name in registry.KINDS}
    if kind is not None and kind not in plural and kind not in registry.KINDS:
        raise ConfigError([f"there is no kind '{kind}'. {nearest(kind, plural)}"], source="the name")
    return [
        Entry(kind=listed, name=name, summary=registry.summary(listed, name))
        for listed in (registry.KINDS if kind is None else (plural.get(kind, kind),))
        for name in registry.names(listed)
    ]


def show(name: str) -> list[Shown]:
    """Explain a name, or what a file defines; several explanations if several kinds share the name.

    Args:
        name: Name of a method, benchmark, metric, audit, recipe or sweep, or the path of a Python or YAML file.

    Raises:
        ConfigError: Nothing has this name (the message names the nearest), or the file is not valid YAML.
        DataError: The Python file cannot be imported, or does not define exactly one member.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError([f"the file {name} does not exist"], source="the name")
        return [_show_file("recipe", name, path)]
    if path.suffix == ".py":
        return [_show_member(*registry.get_from_file(path), name)]
    kinds = [kind for kind in registry.KINDS if name in registry.names(kind)]
    if not kinds:
        options = {option for kind in registry.KINDS for option in registry.names(kind)}
        raise ConfigError([f"nothing is called '{name}'. {nearest(name, options)}"], source="the name")
    return [
        _show_file(kind, name, registry.packaged(kind, name))
        if kind in {"recipe", "sweep"}
        else _show_member(kind, registry.get(kind, name), name)
        for kind in kinds
    ]


def schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, with the settings of every packaged method and benchmark, for editors."""
    result = Recipe.model_json_schema()
    properties, definitions = result["properties"], result["$defs"]
    properties["method"] = {"anyOf": _member_schemas("method", definitions)}
    evaluate = definitions["Evaluate"]["properties"]
    evaluate["benchmarks"]["items"] = {"anyOf": _member_schemas("benchmark", definitions)}
    evaluate["metrics"]["items"] = {
        "type": "string",
        "anyOf": [{"enum": registry.row_metrics()}, {"pattern": r"\.py$"}],
    }
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


def _show_file(kind: str, name: str, path: Path) -> Shown:
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0] if text else ""
    deviations = read_yaml(path).get("deviations") if kind == "recipe" else None
    return Shown(
        kind=kind,
        name=name,
        summary=first.lstrip("# ") if first.startswith("#") else "",
        text=text,
        deviations=[str(deviation) for deviation in deviations] if isinstance(deviations, list) else [],
    )


def _show_member(kind: str, member: Any, name: str) -> Shown:
    """Explain a class or, for a metric, a function."""
    text = inspect.getdoc(member) or ""
    packaged = name in registry.names(kind)
    shown = Shown(
        kind=kind,
        name=name,
        summary=registry.summary(kind, name) if packaged else text.split("\n", 1)[0],
        text=text,
    )
    if kind == "metric":
        return shown.model_copy(update={"facts": _metric_facts(member.spec)})
    facts, labels = _facts(member)
    return shown.model_copy(
        update={"settings": _settings(member), "paper": member.paper, "facts": facts, "labels": labels}
    )


def _metric_facts(spec: MetricSpec) -> dict[str, str]:
    low, high = spec.range
    return {
        "unit": spec.unit or "none",
        "better": spec.better or "depends",
        "range": f"{low:g} to {high:g}",
        "needs": f"columns {', '.join(spec.needs)}" if spec.needs else "full sets (not selectable in evaluate.metrics)",
    }


def _facts(cls: type[Member]) -> tuple[dict[str, str], dict[str, Label]]:
    """Return what a method or benchmark declares with its default settings, and the labels of its headlines."""
    from expunge.benchmarks.base import Benchmark
    from expunge.methods.base import Method

    try:
        member = cls()
    except ValidationError:
        # A required setting has no default, and the declarations depend on the settings.
        return {}, {}
    if isinstance(member, Benchmark):
        columns = ", ".join(member.columns())
        return {"columns": columns} if columns else {}, dict(member.labels())
    if not isinstance(member, Method):
        return {}, {}
    needs = member.needs()
    facts = {"sets": ", ".join(needs.sets) or "none"}
    if needs.reference_logp:
        facts["reference log-probabilities"] = ", ".join(needs.reference_logp)
    if needs.reference:
        sets = needs.reference if isinstance(needs.reference, tuple) else ("all positions",)
        facts["frozen reference"] = ", ".join(sets)
    return facts, {}


def _settings(cls: type[Member]) -> list[Setting]:
    return [
        Setting(
            name=key,
            type=type_name(field.annotation),
            default=None if field.is_required() else field.get_default(call_default_factory=True),
            required=field.is_required(),
            meaning=" ".join((field.description or "").split()),
        )
        for key, field in cls.model_fields.items()
    ]


def type_name(annotation: Any) -> str:
    """Return a type in the words of the documentation: 'number', 'text', or the allowed values."""
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

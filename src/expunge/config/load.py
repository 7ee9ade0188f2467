"""Load a recipe from YAML, apply dotted overrides, and report all problems at once."""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError, create_model

from expunge import registry, strict_yaml
from expunge.config.members import AuditField, BenchmarkField, MemberError, MethodField
from expunge.config.recipe import Recipe, Section
from expunge.errors import ConfigError, DataError, nearest
from expunge.reading import usable_path

S = TypeVar("S", bound=BaseModel)
_FIELDS: dict[str, Any] = {"method": MethodField, "benchmark": BenchmarkField, "audit": AuditField}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a packaged recipe by name or a recipe file by path, with `key.path=value` overrides.

    Raises:
        ConfigError: Lists every unknown key, wrong type and violated rule, each with its path.
    """
    data = read_yaml(find_file("recipe", str(name_or_path)))
    override(data, overrides)
    return parse_recipe(data, source=str(name_or_path))


def parse_recipe(data: dict[str, Any], source: str = "the recipe") -> Recipe:
    """Validate plain data as a recipe.

    Raises:
        ConfigError: Lists every unknown key, wrong type and violated rule, each with its path.
    """
    return parse(data, Recipe, source)


def parse(data: dict[str, Any], kind: type[S], source: str) -> S:
    """Validate plain data as a section of settings.

    Raises:
        ConfigError: Lists every unknown key, wrong type and violated rule, each with its path.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain_all(error, root=kind), source=source) from error


def parse_member(kind: str, data: dict[str, Any]) -> BaseModel:
    """Validate `{name: ..., <settings>}` of a method, benchmark or audit outside a recipe.

    Raises:
        ConfigError: Nothing has this name, or settings are invalid (all are listed).
    """
    holder = create_model("Holder", __base__=Section, **{kind: (_FIELDS[kind], ...)})  # type: ignore[call-overload]
    member: BaseModel = getattr(parse({kind: data}, holder, source=f"the {kind}'s settings"), kind)
    return member


def override(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `key.path=value` overrides to plain data, in place.

    Raises:
        ConfigError: An override has no '=', or its path leads into a single value; all are listed.
    """
    problems = _override(data, overrides)
    if problems:
        raise ConfigError(problems, source="the overrides")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: The file is not a YAML mapping; the message names the line.
    """
    try:
        data = strict_yaml.read(path)
    except yaml.YAMLError as error:
        raise ConfigError([strict_yaml.explain(error)], source=f"{path} (not valid YAML)") from error
    except DataError as error:
        raise ConfigError([str(error)], source=str(path)) from error
    if not isinstance(data, dict):
        raise ConfigError(["the file must contain keys and values, such as 'name: my-run'"], source=str(path))
    return data


def find_file(kind: str, name: str, folder: Path | None = None) -> Path:
    """Return the file of a recipe or sweep: a packaged one by name, or a YAML file by path.

    Args:
        kind: 'recipe' or 'sweep'.
        name: Name or path.
        folder: Folder to which the path may also be relative.

    Raises:
        ConfigError: There is no such file.
    """
    try:
        path = usable_path(name)
    except DataError as error:
        raise ConfigError([str(error)], source=f"the name of the {kind}") from error
    for candidate in (path, *([] if folder is None else [folder / path])):
        if candidate.is_file():
            return candidate
    if path.suffix in {".yaml", ".yml"}:
        raise ConfigError([f"the file {name} does not exist"], source=f"the name of the {kind}")
    return registry.packaged(kind, name)


def _override(data: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    problems = []
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            problems.append(f"'{item}' is not an override; write key.path=value, such as train.lr=1e-5")
            continue
        try:
            value = strict_yaml.load(text) if text else None
        except yaml.YAMLError:
            value = text
        *parents, leaf = key.split(".")
        section: Any = data
        for parent in parents:
            if parent == "method" and isinstance(section, dict) and isinstance(section.get(parent), str):
                section[parent] = {"name": section[parent]}
            if isinstance(section, list) and parent.isdigit() and int(parent) < len(section):
                index = int(parent)
                if isinstance(section[index], str):
                    section[index] = {"name": section[index]}
                section = section[index]
                continue
            if not isinstance(section, dict) or not isinstance(section.get(parent, {}), dict | list | type(None)):
                problems.append(f"{key}: '{parent}' is a single value, so no key inside it can be set")
                break
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
        else:
            _assign(section, leaf, value, key, problems)
    return problems


def _assign(section: Any, leaf: str, value: Any, key: str, problems: list[str]) -> None:
    if isinstance(section, list):
        if leaf.isdigit() and int(leaf) < len(section):
            section[int(leaf)] = value
        else:
            problems.append(f"{key}: '{leaf}' is not an index of a list with {len(section)} entries")
    elif key in {"method.name", "data.name", "prompt.style"} and value != section.get(leaf):
        # Another method, data set or style has other settings, so those of the old one are removed.
        section.clear()
        section[leaf] = value
    else:
        section[leaf] = value


def _explain_all(error: ValidationError, prefix: tuple[Any, ...] = (), root: type[BaseModel] = Recipe) -> list[str]:
    problems = []
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        location = (*prefix, *item["loc"])
        if isinstance(cause, MemberError):
            problems += _explain_all(cause.details, location, cause.member)
        else:
            problems.append(_explain(item, _path(location), _siblings(root, item["loc"])))
    return list(dict.fromkeys(problems))


def _explain(item: Any, path: str, siblings: list[str]) -> str:
    """Format one pydantic error as 'path: problem; nearest match or allowed values'."""
    value = item.get("input")
    if item["type"] == "extra_forbidden":
        key = str(item["loc"][-1])
        section = path.rpartition(".")[0]
        where = f" in {section}" if section else ""
        return f"{path}: there is no setting '{key}'{where}. {nearest(key, siblings)}"
    if item["type"] == "missing":
        return f"{path}: is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{path}: {message}" if path else message
    if item["type"] == "union_tag_invalid":
        path, value = f"{path}.name", value.get("name") if isinstance(value, dict) else value
    if item["type"] == "union_tag_not_found":
        return f"{path}.name: is missing"
    if item["type"] in {"literal_error", "union_tag_invalid"} and isinstance(value, str):
        context = item.get("ctx", {})
        expected = str(context.get("expected", context.get("expected_tags", "")))
        options = [option.strip(" '\"") for option in expected.replace(" or ", ",").split(",")]
        match = nearest(value, options)
        allowed = "" if match.startswith("Allowed") else f" Allowed: {', '.join(options)}."
        return f"{path}: '{value}' is not allowed. {match}{allowed}"
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    message = re.sub(r" or instance of \w+", "", message)
    return f"{path}: {message[0].lower()}{message[1:]} (given: {shown})"


def _path(location: Sequence[Any]) -> str:
    """Return the dotted path of a setting, without the entries that pydantic adds for members of a union."""
    tags = {"tofu", "synthetic", "files"}
    parts = [str(part) for part in location]
    return ".".join(
        part
        for index, part in enumerate(parts)
        if "[" not in part and not (index == 1 and parts[0] == "data" and part in tags)
    )


def _siblings(root: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the valid keys of the section that contains the unknown key."""
    current: Any = root
    for key in location[:-1]:
        if typing.get_origin(current) in (dict, list):
            # The key is an index or chosen by the user; the section is the type of the entries.
            current = typing.get_args(current)[-1]
            continue
        options = _models(current)
        tagged = [model for model in options if getattr(model.model_fields.get("name"), "default", None) == key]
        if tagged:
            current = tagged[0]
            continue
        fields = [model.model_fields[key].annotation for model in options if key in model.model_fields]
        if not fields:
            return []
        current = fields[0]
    return sorted({name for model in _models(current) for name in model.model_fields})


@functools.cache
def _models(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the sections that a type annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return tuple(model for argument in typing.get_args(annotation) for model in _models(argument))
    return ()

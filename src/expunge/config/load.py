"""Reads a recipe from YAML, applies dotted overrides, and reports every mistake at once."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from expunge import registry
from expunge.config.recipe import MemberError, Recipe
from expunge.errors import ConfigError, nearest


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a packaged recipe by name or a recipe file by path, with `key.path=value` overrides.

    Raises:
        ConfigError: Lists every unknown key, wrong type and broken rule, each with its path.
    """
    path = _find(str(name_or_path))
    data = read_yaml(path)
    problems = _override(data, overrides)
    if problems:
        raise ConfigError(problems, source="the overrides")
    return parse_recipe(data, source=str(name_or_path))


def parse_recipe(data: dict[str, Any], source: str = "the recipe") -> Recipe:
    """Validate plain data as a recipe; all mistakes are reported together."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain_all(error), source=source) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; anything else is refused with the line that is wrong."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError([" ".join(str(error).split())], source=f"{path} (not valid YAML)") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError([f"{path} is not a text file in UTF-8"], source=str(path)) from error
    if not isinstance(data, dict):
        raise ConfigError(["the file must hold keys and values, such as 'name: my-run'"], source=str(path))
    return data


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice: the second would silently win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return dict(super().construct_mapping(node, deep))


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.exists():
        if not path.is_file():
            raise ConfigError([f"the file {name} does not exist"], source="the recipe's name")
        return path
    return registry.recipe_path(name)


def _override(data: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    problems = []
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            problems.append(f"'{item}' is not an override; write key.path=value, such as train.lr=1e-5")
            continue
        try:
            value = yaml.safe_load(text) if text else None
        except yaml.YAMLError:
            value = text
        *parents, leaf = key.split(".")
        place: Any = data
        for parent in parents:
            if isinstance(place, dict) and isinstance(place.get(parent), str) and parent == "method":
                place[parent] = {"name": place[parent]}
            if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
                place = place[int(parent)]
                continue
            if not isinstance(place, dict) or not isinstance(place.get(parent, {}), dict | list | type(None)):
                problems.append(f"{key}: '{parent}' holds a single value, so nothing can be set inside it")
                break
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
        else:
            _assign(place, leaf, value, key, problems)
    return problems


def _assign(place: Any, leaf: str, value: Any, key: str, problems: list[str]) -> None:
    if isinstance(place, list):
        if leaf.isdigit() and int(leaf) < len(place):
            place[int(leaf)] = value
        else:
            problems.append(f"{key}: '{leaf}' is not a place in a list of {len(place)}")
    elif key in {"method.name", "data.name"} and value != place.get("name"):
        # Another method or data set has other settings: what stood there belonged to the old one.
        place.clear()
        place["name"] = value
    else:
        place[leaf] = value


def _explain_all(error: ValidationError, prefix: tuple[Any, ...] = (), root: type[BaseModel] = Recipe) -> list[str]:
    problems = []
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        location = (*prefix, *item["loc"])
        if isinstance(cause, MemberError):
            problems += _explain_all(cause.details, location, cause.member)
        else:
            problems.append(_explain(item, _path(location), _siblings(root, item["loc"])))
    return problems


def _explain(item: Any, path: str, siblings: list[str]) -> str:
    """One pydantic error as 'path: what is wrong; what is allowed'."""
    given = item.get("input")
    if item["type"] == "extra_forbidden":
        key = str(item["loc"][-1])
        where = ".".join(path.split(".")[:-1]) or "the recipe"
        return f"{path}: there is no setting '{key}' in {where}. {nearest(key, siblings)}"
    if item["type"] == "missing":
        return f"{path}: is missing and has no default"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{path}: {message}" if path else message
    if item["type"] in {"literal_error", "union_tag_invalid"} and isinstance(given, str):
        context = item.get("ctx", {})
        expected = str(context.get("expected", context.get("expected_tags", "")))
        options = [option.strip(" '\"") for option in expected.replace(" or ", ",").split(",")]
        return f"{path}: '{given}' is not allowed. {nearest(given, options)} Allowed: {', '.join(options)}."
    return f"{path}: {message[0].lower()}{message[1:]} (given: {given!r})"


def _path(location: Sequence[Any]) -> str:
    parts = [str(part) for part in location]
    tags = {"tofu", "synthetic", "files"}
    return ".".join(part for i, part in enumerate(parts) if not (i == 1 and parts[0] == "data" and part in tags))


def _siblings(root: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Valid keys of the section in which the wrong key stands."""
    current: Any = root
    for part in location[:-1]:
        options = _models(current)
        tagged = [m for m in options if getattr(m.model_fields.get("name"), "default", None) == part]
        if tagged:
            current = tagged[0]
            continue
        fields = [m.model_fields[part].annotation for m in options if part in m.model_fields]
        if not fields:
            return []
        current = fields[0]
    return sorted({name for model in _models(current) for name in model.model_fields})


@functools.cache
def _models(annotation: Any) -> tuple[type[BaseModel], ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return tuple(model for part in typing.get_args(annotation) for model in _models(part))
    return ()

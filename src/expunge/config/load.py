"""Reads a recipe from YAML, applies dotted overrides, and reports every mistake at once."""

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

from expunge import registry
from expunge.config.members import AuditField, BenchmarkField, MemberError, MethodField
from expunge.config.recipe import Recipe, Section
from expunge.errors import ConfigError, nearest

S = TypeVar("S", bound=BaseModel)
_FIELDS: dict[str, Any] = {"method": MethodField, "benchmark": BenchmarkField, "audit": AuditField}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a packaged recipe by name or a recipe file by path, with `key.path=value` overrides.

    Raises:
        ConfigError: Lists every unknown key, wrong type and broken rule, each with its path.
    """
    data = read_yaml(_find(str(name_or_path)))
    override(data, overrides)
    return parse_recipe(data, source=str(name_or_path))


def parse_recipe(data: dict[str, Any], source: str = "the recipe") -> Recipe:
    """Validate plain data as a recipe; all mistakes are reported together."""
    return parse(data, Recipe, source)


def parse(data: dict[str, Any], kind: type[S], source: str) -> S:
    """Validate plain data as a section of settings; all mistakes are reported together.

    Raises:
        ConfigError: Lists every unknown key, wrong type and broken rule, each with its path.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain_all(error, root=kind), source=source) from error


def parse_member(kind: str, data: dict[str, Any]) -> BaseModel:
    """Validate `{name: ..., <settings>}` of one method or benchmark, outside a recipe.

    Raises:
        ConfigError: Nothing has this name, or its settings are wrong (all listed).
    """
    holder = create_model("Holder", __base__=Section, **{kind: (_FIELDS[kind], ...)})  # type: ignore[call-overload]
    member: BaseModel = getattr(parse({kind: data}, holder, source=f"the {kind}'s settings"), kind)
    return member


def override(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `key.path=value` settings to plain data, in place.

    Raises:
        ConfigError: An override has no '=' or points into a single value.
    """
    problems = _override(data, overrides)
    if problems:
        raise ConfigError(problems, source="the overrides")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; anything else is refused with the line that is wrong."""
    try:
        data = _unshared(yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader))
    except yaml.YAMLError as error:
        raise ConfigError([_explain_yaml(error)], source=f"{path} (not valid YAML)") from error
    except RecursionError as error:
        raise ConfigError(["an alias stands inside what it names"], source=str(path)) from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError([f"{path} is not a text file in UTF-8"], source=str(path)) from error
    if not isinstance(data, dict):
        raise ConfigError(["the file must hold keys and values, such as 'name: my-run'"], source=str(path))
    return data


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice (the second would silently win) and reads words as YAML 1.2 does."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                problem = f"the key '{key}' stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return dict(super().construct_mapping(node, deep))


# YAML 1.1 reads no, off and on as truth values, so that `duplicates: off` would not be the word off.
_BOOL = "tag:yaml.org,2002:bool"
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
# YAML 1.1 wants a dot and a signed exponent in a float; everybody writes 1e-5.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _unshared(value: Any) -> Any:
    """The same data with every alias written out: an override changes only the place that it names."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _explain_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError([f"the file {name} does not exist"], source="the recipe's name")
        return path
    return registry.packaged("recipe", name)


def _override(data: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    problems = []
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            problems.append(f"'{item}' is not an override; write key.path=value, such as train.lr=1e-5")
            continue
        try:
            value = yaml.load(text, Loader=_StrictLoader) if text else None
        except yaml.YAMLError:
            value = text
        *parents, leaf = key.split(".")
        place: Any = data
        for parent in parents:
            if isinstance(place, dict) and isinstance(place.get(parent), str) and parent == "method":
                place[parent] = {"name": place[parent]}
            if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
                if isinstance(place[int(parent)], str):
                    place[int(parent)] = {"name": place[int(parent)]}
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
    elif key in {"method.name", "data.name", "prompt.style"} and value != place.get(leaf):
        # Another method, data set or style has other settings: what stood there belonged to the old one.
        place.clear()
        place[leaf] = value
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
    return list(dict.fromkeys(problems))


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
    if item["type"] == "union_tag_invalid":
        path, given = f"{path}.name", given.get("name") if isinstance(given, dict) else given
    if item["type"] == "union_tag_not_found":
        return f"{path}.name: is missing and has no default"
    if item["type"] in {"literal_error", "union_tag_invalid"} and isinstance(given, str):
        context = item.get("ctx", {})
        expected = str(context.get("expected", context.get("expected_tags", "")))
        options = [option.strip(" '\"") for option in expected.replace(" or ", ",").split(",")]
        near = nearest(given, options)
        allowed = "" if near.startswith("Allowed") else f" Allowed: {', '.join(options)}."
        return f"{path}: '{given}' is not allowed. {near}{allowed}"
    shown = repr(given)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    message = re.sub(r" or instance of \w+", "", message)
    return f"{path}: {message[0].lower()}{message[1:]} (given: {shown})"


def _path(location: Sequence[Any]) -> str:
    """Dotted path of a setting, without the parts that pydantic adds for the members of a union."""
    tags = {"tofu", "synthetic", "files"}
    parts = [str(part) for part in location]
    return ".".join(
        part for i, part in enumerate(parts) if "[" not in part and not (i == 1 and parts[0] == "data" and part in tags)
    )


def _siblings(root: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Valid keys of the section in which the wrong key stands."""
    current: Any = root
    for part in location[:-1]:
        if typing.get_origin(current) in (dict, list):
            # The part is a key or an index of the user's own; the section is what the collection holds.
            current = typing.get_args(current)[-1]
            continue
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

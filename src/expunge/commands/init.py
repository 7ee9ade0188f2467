"""Writes a recipe to start from: every setting with its meaning, made from the same models that check it."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from expunge import registry
from expunge.config.load import load_recipe
from expunge.config.recipe import Evaluate, FilesData, Model, Recipe, Section, TofuData
from expunge.errors import UserError
from expunge.rundir import write_atomic

_WIDTH = 100
_HEAD = """\
# A recipe: what to forget, from which model, how, and what to measure.
# Lines with a value are set; lines that start with '# key:' show a default that may be set.
# It runs as it is: a small model is trained on fictitious people and made to forget some of them.
"""


def init(path: str | Path = "recipe.yaml", source: str | None = None, *, force: bool = False) -> Path:
    """Write a commented recipe.

    Args:
        path: File to write.
        source: A packaged recipe to copy, with its comments; None for a new one with every setting explained.
        force: Overwrite an existing file.

    Returns:
        The file.

    Raises:
        UserError: The file exists, or cannot be written.
        ConfigError: There is no such packaged recipe.
    """
    path = Path(path)
    text = registry.packaged("recipe", source).read_text(encoding="utf-8") if source else commented_recipe()
    if path.is_dir():
        raise UserError(f"{path} is a folder.", fix=f"Give a file, such as {path / 'recipe.yaml'}.")
    if path.exists() and not force:
        raise UserError(f"{path} already exists.", fix="Give another path, or overwrite it with --force.")
    write_atomic(path, text)
    return path


def commented_recipe() -> str:
    """The quickstart recipe with every setting's meaning as a comment, and other data and models."""
    recipe = load_recipe("quickstart")
    given = recipe.model_dump(mode="json", exclude_unset=True)
    given["name"] = "my-recipe"
    lines = [_HEAD.rstrip()]
    for key, field in Recipe.model_fields.items():
        value = getattr(recipe, key)
        if key == "method":
            lines += ["", *_comment("How to forget: `expunge ls methods` lists the choices."), "method:"]
            lines += _members(value, "  ")
        elif key == "evaluate":
            lines += [
                "",
                *_comment(_doc(Evaluate)),
                "evaluate:",
                *_fields(value, given[key], "  ", {"benchmarks"}),
            ]
            lines += ["  benchmarks:", *_benchmarks(value)]
        elif isinstance(value, Section):
            section = [f"{key}:", *_fields(value, given.get(key, {}), "  ")]
            lines += ["", *_comment(_plain(field) or _doc(type(value)))]
            lines += section if key in given else _commented(section)
            lines += _alternatives(key)
        else:
            lines += ["", *_setting(key, field, given.get(key), key in given, "")]
    return "\n".join(lines) + "\n"


def _alternatives(key: str) -> list[str]:
    """Commented-out sections that may stand in the place of one that is set."""
    if key == "data":
        lines = []
        for kind, example in ((TofuData, {}), (FilesData, {"forget": {"path": "forget.jsonl"}})):
            model = kind.model_validate(example)
            lines += ["", *_comment(f"Instead: {_doc(kind)}"), "# data:"]
            lines += _commented(_fields(model, {"name": model.name, **example}, "  "))
        return lines
    if key == "model":
        start = Model(name="org/model")
        lines = [
            "",
            *_comment("Instead: a model of your own or from the hub (then target: may be left out)."),
        ]
        return [*lines, "# model:", *_commented(_fields(start, {"name": "org/model"}, "  ", {"scratch"}))]
    return []


def _commented(lines: list[str]) -> list[str]:
    return [f"# {line}" for line in lines]


def _members(member: Any, indent: str) -> list[str]:
    given = {"name": member.name, **member.model_dump(mode="json", exclude_unset=True)}
    lines = [f"{indent}name: {member.name}"]
    return lines + _fields(member, given, indent)


def _benchmarks(config: Evaluate) -> list[str]:
    lines = []
    for benchmark in config.benchmarks:
        first, *rest = _members(benchmark, "      ")
        lines += [f"    - {first.strip()}", *rest]
    return lines


def _fields(
    model: BaseModel, given: dict[str, Any], indent: str, skip: frozenset[str] | set[str] = frozenset()
) -> list[str]:
    lines = []
    for key, field in type(model).model_fields.items():
        if key in skip:
            continue
        value = getattr(model, key)
        if isinstance(value, Section) and key in given:
            lines += [*_comment(_plain(field) or _doc(type(value)), indent), f"{indent}{key}:"]
            lines += _fields(value, given[key], f"{indent}  ")
        else:
            lines += _setting(key, field, given.get(key), key in given, indent)
    return lines


def _setting(key: str, field: FieldInfo, value: Any, is_set: bool, indent: str) -> list[str]:
    """One setting with its meaning; commented out with its default where it is not set."""
    shown = value if is_set else field.get_default(call_default_factory=True)
    if isinstance(shown, BaseModel):
        shown = shown.model_dump(mode="json", exclude_unset=True)
    mark = "" if is_set else "# "
    return [*_comment(_meaning(field), indent), f"{indent}{mark}{key}: {_yaml(shown)}"]


def _yaml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value) if "\n" in value or "{" in value else _dump(value)
    return _dump(list(value) if isinstance(value, tuple) else value)


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def _comment(text: str, indent: str = "") -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(indent) + len(line) + len(word) + 3 > _WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [f"{indent}# {part}" for part in [*lines, line] if part]


def _meaning(field: FieldInfo) -> str:
    """What a setting means and, where this does not say it, what it may be."""
    text = _plain(field)
    for part in (field.annotation, *typing.get_args(field.annotation)):
        if typing.get_origin(part) is typing.Literal:
            options = [str(option) for option in typing.get_args(part)]
            if len(options) > 1 and not all(option in text for option in options):
                text += f" One of: {', '.join(options)}."
        elif isinstance(part, type) and issubclass(part, Section):
            text = f"{text or _doc(part)} Keys: {', '.join(part.model_fields)}."
    return text.strip()


def _plain(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _doc(cls: type[BaseModel]) -> str:
    return (cls.__doc__ or "").strip().split("\n\n", 1)[0]

"""Write a commented recipe, generated from the models that validate recipes."""

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
# A recipe: the model, the data to forget, the method, and the benchmarks.
# Lines such as '# key: value' show defaults; remove the '# ' to change one.
# It runs without changes: a small model is trained on fictitious people, and forgets some of them.
"""


def init(path: str | Path = "recipe.yaml", source: str | None = None, *, force: bool = False) -> Path:
    """Write a recipe with comments.

    Args:
        path: File to write.
        source: Name of a packaged recipe to copy, with its comments; None for a new one that explains every setting.
        force: Overwrite an existing file.

    Returns:
        Path of the file.

    Raises:
        UserError: The file exists or cannot be written.
        ConfigError: No packaged recipe has this name.
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
    """Return the quickstart recipe with a comment on every setting, and alternatives for data and model."""
    recipe = load_recipe("quickstart")
    set_values = recipe.model_dump(mode="json", exclude_unset=True)
    set_values["name"] = "my-recipe"
    lines = [_HEAD.rstrip()]
    for key, field in Recipe.model_fields.items():
        value = getattr(recipe, key)
        if key == "method":
            lines += ["", *_comment("Method of unlearning; `expunge ls methods` lists all."), "method:"]
            lines += _members(value, "  ")
        elif key == "evaluate":
            lines += [
                "",
                *_comment(_doc(Evaluate)),
                "evaluate:",
                *_fields(value, set_values[key], "  ", {"benchmarks"}),
            ]
            lines += ["  benchmarks:", *_benchmarks(value)]
        elif isinstance(value, Section):
            section = [f"{key}:", *_fields(value, set_values.get(key, {}), "  ")]
            lines += ["", *_comment(_plain(field) or _doc(type(value)))]
            lines += section if key in set_values else _commented(section)
            lines += _alternatives(key)
        else:
            lines += ["", *_setting(key, field, set_values.get(key), key in set_values, "")]
    return "\n".join(lines) + "\n"


def _alternatives(key: str) -> list[str]:
    """Return commented-out alternatives to a section."""
    if key == "data":
        lines = []
        for section, example in ((TofuData, {}), (FilesData, {"forget": {"path": "forget.jsonl"}})):
            model = section.model_validate(example)
            lines += ["", *_comment(f"Alternative: {_doc(section)}"), "# data:"]
            lines += _commented(_fields(model, {"name": model.name, **example}, "  "))
        return lines
    if key == "model":
        fields = _fields(Model(name="org/model"), {"name": "org/model"}, "  ", {"scratch"})
        comment = "Alternative: a local model or one from the hub. Omit target: if it already knows the forget set."
        return ["", *_comment(comment), "# model:", *_commented(fields)]
    return []


def _commented(lines: list[str]) -> list[str]:
    return [f"# {line}" for line in lines]


def _members(member: Any, indent: str) -> list[str]:
    set_values = {"name": member.name, **member.model_dump(mode="json", exclude_unset=True)}
    return [f"{indent}name: {member.name}", *_fields(member, set_values, indent)]


def _benchmarks(config: Evaluate) -> list[str]:
    lines = []
    for benchmark in config.benchmarks:
        first, *rest = _members(benchmark, "      ")
        lines += [f"    - {first.strip()}", *rest]
    return lines


def _fields(
    model: BaseModel, set_values: dict[str, Any], indent: str, skip: frozenset[str] | set[str] = frozenset()
) -> list[str]:
    lines = []
    for key, field in type(model).model_fields.items():
        if key in skip:
            continue
        value = getattr(model, key)
        if isinstance(value, Section) and key in set_values:
            lines += [*_comment(_plain(field) or _doc(type(value)), indent), f"{indent}{key}:"]
            lines += _fields(value, set_values[key], f"{indent}  ")
        else:
            lines += _setting(key, field, set_values.get(key), key in set_values, indent)
    return lines


def _setting(key: str, field: FieldInfo, value: Any, is_set: bool, indent: str) -> list[str]:
    """Return the lines of one setting with its meaning; a setting with its default value is commented out."""
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
    return [f"{indent}# {text}" for text in [*lines, line] if text]


def _meaning(field: FieldInfo) -> str:
    """Return the meaning of a setting and, if its text does not list them, its options or keys."""
    text = _plain(field)
    for annotation in (field.annotation, *typing.get_args(field.annotation)):
        if typing.get_origin(annotation) is typing.Literal:
            options = [str(option) for option in typing.get_args(annotation)]
            if len(options) > 1 and not all(option in text for option in options):
                text += f" One of: {', '.join(options)}."
        elif isinstance(annotation, type) and issubclass(annotation, Section):
            text = f"{text or _doc(annotation)} Keys: {', '.join(annotation.model_fields)}."
    return text.strip()


def _plain(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _doc(cls: type[BaseModel]) -> str:
    return (cls.__doc__ or "").strip().split("\n\n", 1)[0]

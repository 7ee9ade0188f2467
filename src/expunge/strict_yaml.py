"""YAML without surprises: no duplicate keys, no objects, words and numbers as in YAML 1.2, and bounded aliases."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from expunge.errors import DataError
from expunge.reading import read_bytes

MAX_BYTES = 1 << 18
"""Largest YAML file that is read."""

MAX_NODES = 50_000
"""Largest number of keys and values, each alias counted with everything that it refers to."""


def load(text: str) -> Any:
    """Return the value of a YAML document as plain data, in which nothing is shared between aliases.

    Raises:
        yaml.YAMLError: The text is not valid YAML, repeats a key, names a tag that is not plain data, contains a value
            that its tag does not allow, is nested too deeply, or expands to more than MAX_NODES values.
    """
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded_size(node, {})
        return _copy_aliases(loader.construct_document(node))
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, TypeError, AttributeError) as error:
        # A tag such as !!map before a single word.
        raise yaml.YAMLError(f"a tag does not fit its value: {error}") from error
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def read(path: Path) -> Any:
    """Return the value in a YAML file.

    Raises:
        DataError: The file cannot be read, is too large, or is not UTF-8 text.
        yaml.YAMLError: See `load`.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a UTF-8 text file.", fix="Save it as UTF-8.") from error
    return load(text)


def explain(error: yaml.YAMLError) -> str:
    """Return the message of a YAML error, with its line and column where they are known."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


class _StrictLoader(yaml.SafeLoader):
    """YAML loader that rejects duplicate keys and reads words and numbers as YAML 1.2 does."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            # PyYAML lets them through, for example for a month of 99 or the tag !!int before a word.
            kind = node.tag.rpartition(":")[2]
            shown = f"'{node.value[:40]}'" if isinstance(node.value, str) else "this"
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown} is not a valid {kind}; put a text in quotes", node.start_mark
            ) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        # PyYAML itself would silently use the last of several equal keys.
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key_node.start_mark)
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                problem = f"duplicate key '{key}'"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return dict(super().construct_mapping(node, deep))


# YAML 1.1 reads no, off and on as booleans, so that `duplicates: off` would be false.
_BOOL = "tag:yaml.org,2002:bool"
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
# YAML 1.1 requires a dot and a signed exponent in a float, so that 1e-5 would be a string.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values below a node, each alias counted in full; `sizes` holds those of finished nodes.

    Raises:
        yaml.YAMLError: An alias refers to itself, or there are too many values.
    """
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise yaml.composer.ComposerError(None, None, "a YAML alias refers to itself", node.start_mark)
        return sizes[id(node)]
    sizes[id(node)] = 0
    total = 1
    for entry in node.value if isinstance(node, yaml.CollectionNode) else ():
        for child in entry if isinstance(entry, tuple) else (entry,):
            total += _expanded_size(child, sizes)
            if total > MAX_NODES:
                problem = f"there are more than {MAX_NODES:,} values once the aliases are filled in"
                raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
    sizes[id(node)] = total
    return total


def _copy_aliases(value: Any) -> Any:
    """Copy the data, so that aliases no longer share an object and an override changes one of them only."""
    if isinstance(value, dict):
        return {key: _copy_aliases(item) for key, item in value.items()}
    return [_copy_aliases(item) for item in value] if isinstance(value, list) else value

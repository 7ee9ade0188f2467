"""Canonical JSON, and hashes of content, files and rows."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

_CODE = {".py", ".yaml", ".j2", ".json", ".txt"}


def canonical_json(value: Any) -> str:
    """Return the one JSON text of plain data: sorted keys, no spaces, ASCII, shortest floats.

    Raises:
        ValueError: A number is infinite or NaN, which JSON has no text for.

    Example:
        >>> canonical_json({"b": 0.10, "a": [None]})
        '{"a":[null],"b":0.1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_hash(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of plain data."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def salted_hash(salt: str, value: Any) -> str:
    """Return HMAC-SHA256 of plain data with the ledger's salt as key.

    Without the salt, the text cannot be found by trying texts; with it, the owner can prove which text was meant.
    """
    return hmac.new(bytes.fromhex(salt), canonical_json(value).encode(), hashlib.sha256).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model's folder but its card, which `push` writes again."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


@functools.cache
def code_hash() -> str:
    """Return the SHA-256 of all source files of this package, by path and content."""
    root = Path(__file__).parents[2]
    files = sorted(path for path in root.rglob("*") if path.suffix in _CODE)
    return content_hash({path.relative_to(root).as_posix(): file_hash(path) for path in files})

"""Limits that every malformed input is held to, and the command in this process."""

import hashlib
import resource
import time
from pathlib import Path

import pytest
from tests.e2e.conftest import cli, recipe_file, tiny_model

from expunge.errors import UserError

__all__ = ["cli", "recipe_file", "tiny_model"]

MAX_SECONDS = 10
MAX_BYTES = 1 << 30


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(autouse=True)
def _bounded(request):
    """Fail a test that takes more CPU time or memory than a malformed input may cost."""
    seconds, peak = time.process_time(), _peak_bytes()
    yield
    assert time.process_time() - seconds < MAX_SECONDS
    assert _peak_bytes() - peak < MAX_BYTES


def snapshot(folder: Path) -> dict[str, str]:
    """Return a hash of every regular file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def refused(tmp_path):
    """Return a function that checks: one clear message which contains some words, and no file is changed."""

    def check(action, *words: str) -> str:
        before = snapshot(tmp_path)
        with pytest.raises(UserError) as caught:
            action()
        message = str(caught.value)
        assert "Traceback" not in message
        assert len(message) < 5000
        for word in words:
            assert word in message
        assert snapshot(tmp_path) == before
        return message

    return check

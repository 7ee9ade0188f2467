"""Tests on published data, which is too large to ship; they are skipped where it is absent."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the published data: EXPUNGE_SHARED, or `shared` beside the repository."""
    folder = Path(os.environ.get("EXPUNGE_SHARED", Path(__file__).parents[2].parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"{folder} has no folder data; set EXPUNGE_SHARED to the published data")
    return folder

"""The scripts and the notebook in examples/ run, each in a process of its own and an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "tiny.py")


def execute(arguments: list[str], folder: Path) -> str:
    source = [str(EXAMPLES), str(EXAMPLES.parent / "src"), str(EXAMPLES.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(source), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_there_are_five_scripts_and_a_notebook() -> None:
    assert len(SCRIPTS) == 5
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name})" in listed for name in [*SCRIPTS, "quickstart.ipynb"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, tmp_path: Path) -> None:
    assert execute([str(EXAMPLES / name)], tmp_path).strip()


@pytest.mark.slow
def test_notebook(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "unlearned model_utility" in execute(["-c", code], tmp_path)

"""The commands of the guides run, in order and on small data: files are those that the pages show, models are tiny."""

from __future__ import annotations

import glob
import re
import shlex
import shutil
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
BLOCK = re.compile(r"(?:<!-- (?P<kind>file|needs): (?P<name>[^>]*?) -->\n)?^```\w*\n(?P<text>.*?)^```", re.M | re.S)
MODELS = ("my-model", "target", "retain-model")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Return (kind, name, text) of each code block; kind is 'file', 'needs' or empty for commands that run."""
    matches = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(match["kind"] or "", match["name"] or "", match["text"]) for match in matches]


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(GUIDES.glob("*.md")), ids=lambda page: page.stem)
def test_commands_of_a_guide(page, cli, tiny_model, tmp_path):
    for name in MODELS:
        shutil.copytree(tiny_model, tmp_path / name)
    num_run = 0
    for kind, name, text in blocks(page):
        if kind == "file":
            (tmp_path / name).write_text(text)
    for kind, _, text in blocks(page):
        for line in text.splitlines() if not kind else ():
            if not line.startswith("expunge "):
                continue
            words = shlex.split(line, comments=True)[1:]
            expanded = [match for word in words for match in (sorted(glob.glob(word)) if "*" in word else [word])]
            outcome = cli(*expanded)
            assert outcome.code == 0, f"{line}\n{outcome.out}\n{outcome.err}"
            num_run += 1
    assert num_run >= 2

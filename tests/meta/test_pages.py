"""Pages of the documentation: internal links lead somewhere, every page is linked, and commands parse.

A command in a code block is an `expunge` call with options that exist. A block below a comment `<!-- needs: ... -->`
needs weights or hardware; all other blocks of the guides are run by tests/e2e/test_guides.py.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site form them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def links(page: Path) -> list[str]:
    found = LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_linked() -> None:
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    assert [str(page) for page in PAGES if page.resolve() not in linked and page.name != "README.md"] == []


def commands() -> list[tuple[str, str]]:
    """Return (page, command) of every `expunge` call in a code block."""
    result = []
    # The commands in results.md are those of past runs, with the options of their time.
    for page in [page for page in PAGES if page.name != "results.md"]:
        for block in FENCED.findall(page.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            result += [(page.name, line) for line in lines if line.startswith("expunge ")]
    return result


def parse(line: str) -> None:
    """Parse a command without running it; raise if there is no such command or option."""
    from expunge.cli.main import app

    words = shlex.split(line, comments=True)[1:]
    group = typer.main.get_command(app)
    if words[0].startswith("--"):
        assert words[0].partition("=")[0] in ("--version", "--help", "--install-completion", "--show-completion")
        return
    command = group.commands[words[0]]
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse(page: str, line: str) -> None:
    parse(line)


def test_wrong_commands_do_not_parse() -> None:
    for line, message in (
        ("expunge runn x", "runn"),
        ("expunge run", "recipe"),
        ("expunge run x --no-such-option", "no-such-option"),
    ):
        with pytest.raises(Exception, match=message):
            parse(line)


def test_every_command_has_an_example_that_parses() -> None:
    from expunge.cli.examples import EXAMPLES
    from expunge.cli.main import app

    group = typer.main.get_command(app)
    assert set(EXAMPLES) == set(group.commands)
    for name, lines in EXAMPLES.items():
        command = group.commands[name]
        shown = command.get_help(command.make_context(name, [], resilient_parsing=True))
        for line in lines:
            assert line.split()[1] == name
            assert line in shown, f"the help of {name} does not show its example"
            parse(line.partition(" > ")[0])

"""Hooks of the documentation site: pages generated from the code, and pages of the repository's root.

Pages in docs/ link to files outside it, as GitHub shows them. The site contains the Markdown files of the root, and
shows links to other files as plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import expunge
from expunge import registry
from expunge.cli.main import app
from expunge.commands.init import commented_recipe
from expunge.commands.show import Shown, show
from expunge.report.tables import markdown_table

ROOT = Path(__file__).parents[2]
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\(\.\./((?:src|results|tests|tools|perf)/[^)]*)\)")
_LINK_TO_ROOT = re.compile(r"\]\(\.\./((?:CONTRIBUTING|CHANGELOG|SECURITY)\.md)")
_LINK_FROM_ROOT = re.compile(r"\]\(docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root and the generated reference, and the pictures of results."""
    for name in ROOT_PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_LINK_FROM_ROOT.sub("](", text)))
    for name, text in {
        "recipe": recipe_page(),
        "cli": command_page(),
        "api": api_page(),
        "papers": papers_page(),
        **{f"{kind}s": members_page(kind) for kind in ("metric", "benchmark", "audit")},
    }.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for picture in sorted((ROOT / "results").rglob("*.svg")):
        files.append(File.generated(config, str(picture.relative_to(ROOT)), abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt links that lead out of docs/."""

    def outside(match: re.Match[str]) -> str:
        if match[1]:
            return f"![{match[2]}]({match[3]})"
        return match[2]

    return _LINK_TO_ROOT.sub(r"](\1", _OUTSIDE.sub(outside, markdown))


def recipe_page() -> str:
    """Return the commented recipe that `expunge init` writes, which lists every key."""
    return (
        "# Recipe\n\nEvery key with its meaning and default, as `expunge init` writes it. `expunge schema` prints the "
        f"JSON schema, for completion in an editor.\n\n```yaml\n{commented_recipe()}```\n"
    )


def command_page() -> str:
    """Return the help of every command."""
    group: Any = typer.main.get_command(app)
    parts = ["# Command line\n\nAs `expunge COMMAND --help` prints it.\n"]
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        context.info_name = f"expunge {name}"
        parts.append(f"## {name}\n\n```\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


def api_page() -> str:
    """Return directives for the public Python names."""
    objects = {name: getattr(expunge, name) for name in expunge.__all__ if name != "__version__"}
    paths = [f"{value.__module__}.{value.__name__}" for value in objects.values()]
    extension = [
        "expunge.methods.base.Method",
        "expunge.methods.base.RetainMethod",
        "expunge.modeling.step.Step",
        "expunge.benchmarks.base.Benchmark",
        "expunge.audits.base.Audit",
        "expunge.records.base.Value",
    ]
    head = "# Python\n\n`import expunge` loads nothing heavy; each name is imported on first use.\n\n"
    return head + "\n".join(f"::: {path}\n" for path in [*paths, *extension])


def members_page(kind: str) -> str:
    """Return documentation and settings of every member of a kind, as `expunge show` prints them."""
    parts = [f"# {kind.capitalize()}s\n"]
    for name in registry.names(kind):
        shown = next(item for item in show(name) if item.kind == kind)
        parts += [f"## {name}\n", f"```text\n{shown.text.strip()}\n```\n", *_facts(shown)]
    return "\n".join(parts)


def _facts(shown: Shown) -> list[str]:
    parts = [f"Source: {shown.paper}\n"] if shown.paper else []
    if shown.labels:
        parts.append(markdown_table(["headline", "meaning"], [[k, v.explain] for k, v in shown.labels.items()]) + "\n")
    if shown.settings:
        rows = [
            [f"`{item.name}`", item.type, "required" if item.required else f"`{item.default}`", item.meaning]
            for item in shown.settings
        ]
        parts.append(markdown_table(["setting", "type", "default", "meaning"], rows) + "\n")
    return parts


def papers_page() -> str:
    """Return the source of every method, benchmark and audit."""
    rows = []
    for kind in ("method", "benchmark", "audit"):
        for name in registry.names(kind):
            paper = re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", registry.get(kind, name).paper)
            rows.append([kind, name, paper or "none"])
    return "# Papers\n\n" + markdown_table(["kind", "name", "source"], rows) + "\n"

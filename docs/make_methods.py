"""Writes docs/methods.md from the method classes: what each does, its formula, its settings, its paper.

python docs/make_methods.py
"""

from __future__ import annotations

from pathlib import Path

from expunge import registry
from expunge.runs.show import Setting, Shown, show

PAGE = Path(__file__).parent / "methods.md"
INTRO = """# Methods

Written by `python docs/make_methods.py` from the classes in `src/expunge/methods/`; `expunge show NAME` prints the
same.
A method of your own is a Python file with one class: `method: {name: ./my_method.py}`.
"""


def page() -> str:
    """The whole page."""
    methods = [next(item for item in show(name) if item.kind == "method") for name in registry.names("method")]
    index = ["| method | what it does |", "|---|---|"]
    index += [f"| [{method.name}](#{method.name}) | {_cell(method.summary)} |" for method in methods]
    return "\n".join([INTRO, *index, "", *(section(method) for method in methods)])


def section(method: Shown) -> str:
    """One method."""
    rows = ["| setting | default | values | meaning |", "|---|---|---|---|"]
    rows += [_row(setting) for setting in method.settings]
    text = method.text.strip()
    return "\n".join([f"## {method.name}", "", "```text", text, "```", "", *rows, "", f"Paper: {method.paper}", ""])


def _row(setting: Setting) -> str:
    default = "required" if setting.required else f"`{setting.default}`"
    return f"| `{setting.name}` | {default} | {_cell(setting.type)} | {_cell(setting.meaning)} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

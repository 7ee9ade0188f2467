"""Writes docs/methods.md: what each method does, its formula, settings and paper, and what it measured.

python tools/docs/make_methods.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from expunge import registry
from expunge.commands.show import Setting, Shown, show
from expunge.records import Value
from expunge.report.tables import format_value, markdown_table

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
RECORDS = Path(__file__).parents[2] / "results" / "methods"
INTRO = """# Methods

Written by `python tools/docs/make_methods.py` from the classes in `src/expunge/methods/`; `expunge show NAME` prints
the same.
A method of your own is a Python file with one class: `method: {name: ./my_method.py}`.
"""


MEASURED = """## Measured on the TOFU stand-in

forget10 on the project's model of 4 million parameters, all 400 forget questions, batch 16, bfloat16, one seed, one
thread. Every method had the same small search, written down in `tools/measure_methods.py`: four trials of
{epochs} epochs, two learning rates times two values of one more setting (four learning rates where there is none), and
of those the one with the highest model utility among those whose forget quality reaches 0.05, or else the highest
forget quality, on the first 100 rows of each set. Those rows are also among the 400 reported, four trials are few, and
no method was tuned further: the table shows what each does without care, not what it can do. Seconds and peak memory
are of the chosen trial's unlearning alone (with what the method prepares, without measuring), trained once more in a
process of its own. Answers are cut at {tokens} tokens.
"""


def measured() -> list[str]:
    """The table of measurements, one record per method."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    if not records:
        return []
    head = ["method", "chosen", "forget quality", "model utility", "steps", "seconds", "peak GiB"]
    rows = [
        [
            f"[{record['method']}](#{record['method']})",
            ", ".join(f"{key.split('.')[-1]} {value}" for key, value in record["chosen"].items()),
            *(format_value(Value(**record["headlines"][name])) for name in ("forget_quality", "model_utility")),
            str(record["steps"]),
            *_taken(record.get("alone")),
        ]
        for record in records
    ]
    names = {record["method"] for record in records}
    missing = [name for name in registry.names("method") if name not in names]
    still = [f"Not measured yet: {', '.join(missing)}.", ""] if missing else []
    intro = MEASURED.format(epochs=records[0]["settings"]["epochs"], tokens=64)
    return [intro, markdown_table(head, rows), "", *still]


def _taken(alone: dict[str, Any] | None) -> list[str]:
    return [f"{alone['seconds']:.0f}", f"{alone['peak_bytes'] / 2**30:.2f}"] if alone else ["not measured"] * 2


def page() -> str:
    """The whole page."""
    methods = [next(item for item in show(name) if item.kind == "method") for name in registry.names("method")]
    index = ["| method | what it does |", "|---|---|"]
    index += [f"| [{method.name}](#{method.name}) | {_cell(method.summary)} |" for method in methods]
    return "\n".join([INTRO, *index, "", *measured(), *(section(method) for method in methods)])


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

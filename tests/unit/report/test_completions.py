"""The table of completions: worst first, names marked, one column per model that was asked, nothing unescaped."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import number, write_samples

from expunge.records import BenchmarkResult, Section
from expunge.report.html import write_report
from expunge.report.load import load_run
from expunge.report.sections import SectionView, section_views
from expunge.rundir import write_record

Make = Callable[..., Path]
SECTION = Section(
    kind="completions", title="Passages", set="passages", question="prompt", answer="text", response="completion"
)
EVIL = '</td><script>alert("x")</script>\u202eabc'


def row(index: int, completion: str | None, named: list[str], probability: float = 0.1, **more: Any) -> dict[str, Any]:
    return {
        "set": "passages",
        "index": index,
        "group": str(index),
        "prompt": f"and her little dog, passage {index},",
        "text": "Toto",
        "completion": completion,
        "prompt_anchors": ["Em"],
        "completion_anchors": named,
        "logp": math.log(probability),
        **more,
    }


def familiarity(folder: Path, role: str, rows: list[dict[str, Any]], point: float = 0.5, **more: Any) -> None:
    name = f"{role}-familiarity"
    result = BenchmarkResult(
        benchmark="familiarity",
        role=role,
        model=role,
        model_hash="",
        metrics={},
        headlines={"familiarity": number(point, better="lower")},
        sections=[SECTION],
        samples=write_samples(folder, name, rows),
        **more,
    )
    write_record(folder / f"results/{name}.json", result)


@pytest.fixture
def folder(make_run: Make) -> Path:
    """Three passages: the unlearned model names something in the third, and in the first only what it was told."""
    run = make_run()
    familiarity(run, "target", [row(i, "Toto barked at Em.", ["Em", "Toto"], 0.9) for i in range(3)])
    after = [
        row(0, "Em ran.", ["Em"], 0.01),
        row(1, "a cat", [], 0.3),
        row(2, f"Toto {EVIL}", ["Toto"], 0.2),
        row(3, None, []),
    ]
    familiarity(run, "unlearned", [*after, {**row(0, None, []), "set": "forget_text"}], step=25, epoch=5.0)
    return run


def views(folder: Path) -> list[SectionView]:
    return [view for view in section_views(load_run(folder)) if view.section.kind == "completions"]


def test_worst_first_with_names_marked(folder: Path) -> None:
    """Still naming, then by the probability of what comes next; a prompt that filled the context is left out."""
    (view,) = views(folder)
    assert [item.number for item in view.completions] == [3, 2, 1]
    assert [item.names for item in view.completions] == [True, False, False]
    assert view.roles == ["target", "unlearned"]
    worst, last = view.completions[0].by_role, view.completions[-1].by_role
    assert worst["unlearned"].text.startswith("<mark>Toto</mark> &lt;/td&gt;")
    assert worst["target"].text == "<mark>Toto</mark> barked at Em.", "Em is in the passage"
    assert worst["target"].probability == pytest.approx(0.9)
    assert (last["unlearned"].text, last["unlearned"].names) == ("Em ran.", False)


def test_on_the_page(folder: Path) -> None:
    text = write_report([folder]).read_text(encoding="utf-8")
    assert 'id="familiarity-1"' in text
    assert "1 of the 3 shown still name something" in text
    assert "<mark>Toto</mark> barked" in text
    assert "p 0.9" in text
    assert '<script>alert("x")' not in text
    assert "\u202e" not in text


def test_runs_without_passages_have_no_such_part(make_run: Make) -> None:
    folder = make_run()
    assert views(folder) == []
    assert "Passages" not in write_report([folder]).read_text(encoding="utf-8")


def test_many_are_cut_and_said_so(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.report.sections.MAX_COMPLETIONS", 2)
    folder = make_run()
    familiarity(folder, "unlearned", [row(i, "nothing", []) for i in range(5)])
    assert "The first 2 of 5 passages; all of them are in samples/unlearned-familiarity.parquet" in write_report(
        [folder]
    ).read_text(encoding="utf-8")

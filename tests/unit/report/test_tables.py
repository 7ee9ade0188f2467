from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_runs import quality
from rich.console import Console

from expunge.records import Value
from expunge.records.format import format_interval, format_number, format_point, format_value
from expunge.report.load import load_run
from expunge.report.tables import headline_rows, metric_rows, to_markdown, to_rich

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.62, "0.620"),
        (0.6227, "0.623"),
        (1.0, "1.00"),
        (45.04, "45.0"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (1.6e-27, "1.6e-27"),
        (0.00052, "5.2e-4"),
        (0.0, "0"),
        (-0.25, "-0.250"),
        (2.5e7, "2.5e7"),
        (float("nan"), "not a number"),
        (float("inf"), "infinite"),
    ],
)
def test_format_number(number: float, text: str) -> None:
    assert format_number(number) == text


def test_p_values_have_two_digits_and_never_become_zero() -> None:
    """log10 p = -412.3 means p = 10^-412.3 = 10^0.7 * 10^-413 = 5.0e-413."""
    assert format_point(quality(0.468)) == "0.47"
    assert format_point(quality(1.63e-27)) == "1.6e-27"
    assert format_point(quality(0.0)) == "5.0e-413"


def test_format_value() -> None:
    assert format_value(Value(point=0.62, low=0.6, high=0.64)) == "0.620 [0.600, 0.640]"
    assert format_value(Value(point=31.2, unit="%")) == "31.2%"
    assert format_value(Value(point=0.5, n=397, n_missing=3)) == "0.500 (3 not scored)"
    few = Value(point=0.5, n=2, n_missing=1, no_interval="2 groups of rows, at least 5 are needed")
    assert format_value(few) == "0.500 (1 not scored; no interval: 2 groups of rows, at least 5 are needed)"
    assert format_value(Value.missing("a retain model")) == "cannot be computed: needs a retain model"
    assert format_interval(Value(point=0.5)) == ""


def test_headlines_of_a_run(make_run: Make) -> None:
    rows = {row.name: row for row in headline_rows(load_run(make_run()))}
    assert list(rows) == ["forget_quality", "model_utility"]
    assert rows["model_utility"].values["target"].point == 0.652
    assert rows["forget_quality"].published == 0.45
    assert rows["forget_quality"].values["retain"].point == 1.0
    assert rows["forget_quality"].title == "Forget quality"


def test_what_is_missing_says_so(make_run: Make) -> None:
    folder = make_run()
    (folder / "results/retain-tofu.json").unlink()
    row = headline_rows(load_run(folder))[1]
    assert row.values["retain"].needs == "an evaluation of the retain model"


def test_a_published_number_without_a_benchmark_is_still_listed(make_run: Make) -> None:
    rows = headline_rows(load_run(make_run(finished=False)))
    assert [(row.name, row.published) for row in rows] == [("forget_quality", 0.45)]
    assert rows[0].values["unlearned"].point is None


def test_metrics_are_labelled_by_set(make_run: Make) -> None:
    assert [row.title for row in metric_rows(load_run(make_run()))] == ["forget: probability of the answer"]


def test_markdown_escapes_pipes_and_names_runs_only_when_needed(make_run: Make) -> None:
    one = headline_rows(load_run(make_run("a")))
    other = headline_rows(load_run(make_run("b", name="x | y")))
    lines = to_markdown(one).splitlines()
    assert lines[0] == "| Metric | Target | Unlearned | Retain model | Published |"
    assert len(lines) == 4
    both = to_markdown([*one, *other]).splitlines()
    assert both[0].startswith("| Run | Metric |")
    assert both[-1].startswith("| x \\| y | Model utility |")


def test_terminal_table_prints_brackets_as_they_are(make_run: Make) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    rows = [
        *headline_rows(load_run(make_run("a"))),
        *headline_rows(load_run(make_run("b", name="[red]x[/red]"))),
    ]
    console.print(to_rich(rows))
    text = console.export_text()
    assert "0.604 [0.584, 0.624]" in text
    assert "[red]x[/red]" in text

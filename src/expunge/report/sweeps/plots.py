"""Figures of a sweep: the Pareto front and the effect of each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from expunge.records import Value
from expunge.records.sweeps import SweepRecord, Trial
from expunge.report.plots import (
    GRID,
    INK,
    MUTED,
    ROLE_COLOR,
    STYLE,
    axis_label,
    canvas_of,
    plain_label,
    plotted,
    style_axes,
    svg,
)


def pareto(record: SweepRecord) -> Markup | None:
    """Plot every trial by the first two objectives; the Pareto front is joined, the chosen trial is ringed.

    Returns:
        SVG, or None where there are not two objectives, or no trial has both numbers.
    """
    names = list(record.objectives)[:2]
    spots = {trial.number: _spot(trial, names) for trial in record.trials}
    found = {number: spot for number, spot in spots.items() if spot is not None}
    if len(names) < 2 or not found:
        return None
    figure, axes = canvas_of(7.2, 3.9)
    unfinished = [found[trial.number] for trial in record.trials if trial.number in found and trial.state == "stopped"]
    if unfinished:
        axes.plot(*zip(*unfinished, strict=True), "x", color=MUTED, markersize=5, zorder=2)
    complete = [number for number in record.ranking if number in found]
    if complete:
        axes.plot(*zip(*(found[number] for number in complete), strict=True), "o", color=ROLE_COLOR["unlearned"],
                  markersize=5, alpha=0.55, zorder=3)  # fmt: skip
    front = sorted(found[number] for number in record.pareto if number in found)
    if front:
        axes.plot(*zip(*front, strict=True), "-o", color=ROLE_COLOR["unlearned"], markersize=6, zorder=4)
    if complete:
        axes.plot(*found[complete[0]], "o", markersize=13, markerfacecolor="none", markeredgecolor=INK, zorder=5)
    for role, values in (("target", record.target), ("retain", record.retain_model)):
        _mark(axes, role, values, names)
    axes.set_xlabel(axis_label(names[1], record.labels, False), color=INK)
    axes.set_ylabel(axis_label(names[0], record.labels, _is_p_value(record, names[0])), color=INK)
    axes.margins(0.1)
    return Markup(svg(figure, "pareto", "Trials by the two objectives, with the Pareto front"))


def effects(record: SweepRecord) -> Markup | None:
    """Plot the first objective against each setting: a dot per trial, a bar at the median of each value.

    Returns:
        SVG, or None where no complete trial has the first objective.
    """
    name = next(iter(record.objectives))
    complete = [record.trial(number) for number in record.ranking]
    scored = [(trial, y) for trial in complete if (y := plotted(trial.chosen_on.get(name))) is not None]
    keys = [key for key in dict.fromkeys(k for trial, _ in scored for k in trial.params)
            if len({repr(trial.params[key]) for trial, _ in scored}) > 1]  # fmt: skip
    if not keys:
        return None
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.3 * rows), layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes, key in zip(grid, keys, strict=False):
        style_axes(axes)
        _effect(axes, [(_plain(trial.params[key]), y) for trial, y in scored])
        axes.set_title(key, color=INK, fontsize=9, loc="left")
    for axes in grid[len(keys) :]:
        axes.set_visible(False)
    grid[0].set_ylabel(axis_label(name, record.labels, _is_p_value(record, name)), color=INK, fontsize=8)
    return Markup(svg(figure, "effects", "The first objective against each setting"))


def _effect(axes: Any, points: Sequence[tuple[Any, float]]) -> None:
    values = list(dict.fromkeys(value for value, _ in sorted(points, key=_order)))
    if len(values) > 12 and all(isinstance(value, int | float) for value in values):
        axes.plot(*zip(*points, strict=True), "o", color=ROLE_COLOR["unlearned"], markersize=4, alpha=0.6)
        return
    for place, value in enumerate(values):
        ys = sorted(y for other, y in points if other == value)
        axes.plot([place] * len(ys), ys, "o", color=ROLE_COLOR["unlearned"], markersize=4, alpha=0.5, zorder=3)
        middle = ys[len(ys) // 2] if len(ys) % 2 else (ys[len(ys) // 2 - 1] + ys[len(ys) // 2]) / 2
        axes.plot([place - 0.25, place + 0.25], [middle, middle], color=INK, linewidth=2, zorder=4)
    axes.set_xticks(range(len(values)), [plain_label(_text(value)) for value in values], color=MUTED)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.spines["bottom"].set_color(GRID)


def _plain(value: Any) -> int | float | str:
    """Return a number as it is and anything else, such as a list of weights, as text."""
    return value if isinstance(value, int | float) else str(value)


def _order(point: tuple[Any, float]) -> tuple[int, float, str]:
    value = point[0]
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _text(value: Any) -> str:
    text = format(value, "g") if isinstance(value, float) else str(value)
    return text if len(text) <= 14 else f"{text[:13]}…"


def _spot(trial: Trial, names: Sequence[str]) -> tuple[float, float] | None:
    if trial.state not in {"complete", "stopped"} or len(names) < 2:
        return None
    values = trial.chosen_on or trial.headlines
    y, x = (plotted(values.get(name)) for name in names)
    return None if x is None or y is None else (x, y)


def _mark(axes: Any, role: str, values: dict[str, Value], names: Sequence[str]) -> None:
    y, x = (plotted(values.get(name)) for name in names)
    if x is not None and y is not None:
        axes.plot(x, y, "s" if role == "target" else "D", color=ROLE_COLOR[role], markersize=7, zorder=5)
        axes.annotate(role, (x, y), xytext=(7, 6), textcoords="offset points", color=ROLE_COLOR[role])


def _is_p_value(record: SweepRecord, name: str) -> bool:
    return any("log10" in value.extra for trial in record.trials if (value := trial.headlines.get(name)))

"""Figures as inline SVG whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from expunge.errors import printable
from expunge.records import Axes, BenchmarkResult, Finding, Label, TrainPoint, Value
from expunge.report.tables import metric_title

# Placeholder colours, replaced by CSS variables once the SVG is written.
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
ROLE_COLOR = {"target": "#050505", "unlearned": "#060606", "retain": "#070707"}
LINES = ("#060606", "#080808", "#090909", "#0a0a0a", "#050505", "#070707")
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper", "#050505": "--target",
    "#060606": "--unlearned", "#070707": "--retain", "#080808": "--fourth", "#090909": "--fifth",
    "#0a0a0a": "--sixth",
}  # fmt: skip
_MARKER = {"target": "s", "unlearned": "o", "retain": "D"}
_DASH: dict[str, Any] = {"target": (0, (5, 2)), "unlearned": "solid", "retain": (0, (1.5, 1.5))}
STYLE = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.unicode_minus": True}
Path = Sequence[BenchmarkResult]
_LEAST_PASSES = 0.1
"""Passes at which attempts without any are plotted, on a log scale."""


def svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure as an SVG element: text stays text, ids start with `name`, colours are CSS variables."""
    stream = io.StringIO()
    for label in figure.findobj(Text):
        label.set_text(plain_label(label.get_text()))
    with rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser draws the text, with fonts of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # This style would act on every element of the page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (?:width|height)="[0-9.]+pt"', "", text, count=2)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    head = f'<svg role="img" aria-labelledby="{name}-title"'
    return text.replace("<svg", head, 1).replace(">", f'><title id="{name}-title">{escape(title)}</title>', 1)


def plain_label(text: str) -> str:
    """Return a text that matplotlib draws as it is: without control characters, and not as a formula."""
    return printable(text).replace("$", r"\$")


def plotted(value: Value | None) -> float | None:
    """Return the number to plot: the logarithm of a p-value, also where it underflows to 0; else the point."""
    if value is None or value.point is None:
        return None
    number = value.extra.get("log10", value.point)
    return number if math.isfinite(number) else None


def axis_label(name: str, labels: Mapping[str, Label], p_value: bool) -> str:
    """Return the label of an axis from the metric's title."""
    title = metric_title(name, labels)
    title = title[:1].lower() + title[1:]
    return f"{title} (log10 of p)" if p_value else title


def trajectory(
    paths: Mapping[str, Path],
    target: BenchmarkResult | None,
    retain: BenchmarkResult | None,
    axes: Axes,
    selected: int | None = None,
    name: str = "trajectory",
) -> str | None:
    """Plot forgetting against utility, epoch by epoch, for one run or several.

    Args:
        paths: Label -> results of the unlearned model, sorted by step.
        target: The model before unlearning.
        retain: The model that never saw the forget set.
        axes: The metrics of the two axes.
        selected: Step to ring, for a single run.
        name: Prefix of ids in the SVG.

    Returns:
        SVG, or None where no result has both metrics.
    """
    results = [result for path in paths.values() for result in path]
    forget = next(
        (metric for metric in (axes.forget, axes.forget_fallback) if any(_value(r, metric) for r in results)), ""
    )
    spots = {label: [_spot(result, forget, axes.utility) for result in path] for label, path in paths.items()}
    if not any(spot for path in spots.values() for spot in path):
        return None
    figure, canvas = canvas_of(7.2, 3.9)
    for color, (label, path) in zip(_cycle(len(paths)), paths.items(), strict=True):
        _draw_path(canvas, path, spots[label], color, label if len(paths) > 1 else "", axes.utility, selected)
    marks = {role: _spot(result, forget, axes.utility) for role, result in (("target", target), ("retain", retain))}
    if len(paths) == 1 and marks["target"] and (first := next(filter(None, next(iter(spots.values()))), None)):
        canvas.plot(*zip(marks["target"], first, strict=True), color=MUTED, linewidth=1, linestyle=":", zorder=1)
    for role, spot in marks.items():
        if spot is not None:
            canvas.plot(*spot, _MARKER[role], color=ROLE_COLOR[role], markersize=8, zorder=5)
            canvas.annotate(role, spot, xytext=(7, 6), textcoords="offset points", color=ROLE_COLOR[role])
    labels = {key: label for result in results for key, label in result.labels.items()}
    p_value = any("log10" in value.extra for result in results if (value := _value(result, forget)))
    canvas.set_xlabel(axis_label(axes.utility, labels, False), color=INK)
    canvas.set_ylabel(axis_label(forget, labels, p_value), color=INK)
    if axes.forget_limit is not None and forget == axes.forget:
        limit = math.log10(axes.forget_limit) if p_value else axes.forget_limit
        canvas.axhline(limit, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        canvas.annotate(f"{axes.forget_limit:g}", (0, limit), xycoords=("axes fraction", "data"), xytext=(3, -10),
                        textcoords="offset points", color=MUTED, fontsize=8)  # fmt: skip
    canvas.margins(x=0.12, y=0.12)
    if len(paths) > 1:
        canvas.legend(frameon=False, labelcolor=INK, loc="best", fontsize=8)
    return svg(figure, name, "Forgetting against utility over the epochs of unlearning")


def ecdf(values: Mapping[str, Sequence[float]], label: str, name: str = "ecdf") -> str | None:
    """Plot the empirical distribution of a positive per-row value on a log scale, with the widest gap marked.

    Args:
        values: Role -> one value per row.
        label: Label of the horizontal axis.
        name: Prefix of ids in the SVG.

    Returns:
        SVG, or None where no model has values.
    """
    sorted_logs = {role: _finite_logs(numbers) for role, numbers in values.items()}
    sorted_logs = {role: logs for role, logs in sorted_logs.items() if len(logs)}
    if not sorted_logs:
        return None
    figure, canvas = canvas_of(7.2, 3.3)
    low = min(logs[0] for logs in sorted_logs.values())
    high = max(logs[-1] for logs in sorted_logs.values())
    pad = 0.04 * (high - low or 1.0)
    for role, logs in sorted_logs.items():
        x = np.concatenate([[low - pad], logs, [high + pad]])
        y = np.concatenate([[0.0], np.arange(1, len(logs) + 1) / len(logs), [1.0]])
        canvas.step(x, y, where="post", color=ROLE_COLOR[role], linestyle=_DASH[role], linewidth=1.7, label=role)
    if {"unlearned", "retain"} <= set(sorted_logs):
        where, bottom, top = widest_gap(sorted_logs["unlearned"], sorted_logs["retain"])
        canvas.plot([where, where], [bottom, top], color=INK, linewidth=2.2, solid_capstyle="butt", zorder=4)
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
        middle = (where, (bottom + top) / 2)
        canvas.annotate(
            f"D = {top - bottom:.3f}", middle, xytext=(6, -3), textcoords="offset points", color=INK, bbox=box
        )
    canvas.set_xlabel(f"{label} (log10)", color=INK)
    canvas.set_ylabel("share of rows", color=INK)
    canvas.set_xlim(low - pad, high + pad)
    canvas.set_ylim(0, 1.02)
    canvas.legend(frameon=False, labelcolor=INK, loc="upper left", handlelength=3)
    return svg(figure, name, f"Cumulative distribution of {label}")


def widest_gap(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Return where two empirical distribution functions are furthest apart, and their heights there.

    The distance between the heights is the Kolmogorov-Smirnov statistic D = sup |F1(x) - F2(x)|.

    Returns:
        Position, lower height, upper height.
    """
    a, b = np.sort(np.asarray(first)), np.sort(np.asarray(second))
    positions = np.concatenate([a, b])
    heights = [np.searchsorted(values, positions, side="right") / len(values) for values in (a, b)]
    best = int(np.argmax(np.abs(heights[0] - heights[1])))
    low, high = sorted(float(height[best]) for height in heights)
    return float(positions[best]), low, high


def losses(points: Sequence[TrainPoint]) -> str | None:
    """Plot the loss and its weighted terms over the epochs, each on its own scale.

    Returns:
        SVG, or None for a run without training steps.
    """
    if not points:
        return None
    thinned = points[:: math.ceil(len(points) / 400)]
    names = list(dict.fromkeys(name for point in points for name in point.terms))
    series = {"loss": [point.loss for point in thinned]}
    for name in names:
        series[name] = [point.terms.get(name, math.nan) for point in thinned]
    if len(names) == 1:
        del series["loss"]
    columns = min(3, len(series))
    rows = math.ceil(len(series) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
    epochs = [point.epoch for point in thinned]
    for axes, color, (name, values) in zip(grid, _cycle(len(series)), series.items(), strict=False):
        style_axes(axes)
        axes.plot(epochs, values, color=color, linewidth=1.4, marker="." if len(thinned) < 30 else "")
        axes.set_title(name.replace("_", " "), color=INK, fontsize=9, loc="left")
        axes.set_xlabel("epoch", color=INK)
    for axes in list(figure.axes)[len(series) :]:
        axes.set_visible(False)
    return svg(figure, "losses", "Training loss by term over the epochs")


def recovery(findings: Sequence[Finding]) -> str | None:
    """Plot the excess over the retain model against the passes of each attempt, one panel per measure.

    A line shows the worst case among the counted attempts up to each cost.

    Returns:
        SVG, or None without an attempt on a retain model.
    """
    known = [finding for finding in findings if finding.excess.point is not None]
    if not known:
        return None
    measures = list(dict.fromkeys(finding.measure for finding in known))
    colors = dict(zip(dict.fromkeys(finding.audit for finding in known), _cycle(len(known)), strict=False))
    columns = min(2, len(measures))
    rows = math.ceil(len(measures) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.6 * rows), layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, measure in zip(grid, measures, strict=False):
        style_axes(axes)
        _draw_recovery(axes, [finding for finding in known if finding.measure == measure], colors)
        axes.set_title(measure, color=INK, fontsize=9, loc="left")
        axes.set_xlabel("passes over the forget set", color=INK)
        axes.set_ylabel("excess over the retain model", color=INK)
    for axes in grid[len(measures) :]:
        axes.set_visible(False)
    for name, color in colors.items():
        grid[0].plot([], [], "o", color=color, label=name)
    grid[0].legend(frameon=False, labelcolor=INK, loc="best", fontsize=7)
    return svg(
        figure, "recovery", "What attacks get out of the unlearned model beyond the retain model, over their cost"
    )


def _draw_recovery(axes: Any, findings: Sequence[Finding], colors: Mapping[str, str]) -> None:
    axes.set_xscale("log")
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    worst: list[tuple[float, float]] = []
    for finding in sorted(findings, key=lambda each: each.cost.passes):
        cost, size = max(finding.cost.passes, _LEAST_PASSES), finding.excess.point or 0.0
        color = colors[finding.audit]
        low, high = _whisker(finding.excess)
        axes.plot([cost, cost], [low, high], color=color, linewidth=1, alpha=0.45, zorder=2)
        axes.plot(cost, size, "o", color=color, markersize=5, zorder=3, markeredgecolor=color,
                  markerfacecolor=color if finding.counted else "none")  # fmt: skip
        if finding.counted:
            worst.append((cost, max(size, worst[-1][1] if worst else size)))
    if worst:
        axes.step(*zip(*worst, strict=True), where="post", color=INK, linewidth=1.2, zorder=2)


def canvas_of(width: float, height: float) -> tuple[Figure, Any]:
    """Return a figure and its axes in the style of the page; sizes in inches."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Any) -> None:
    """Apply the colours and grid of the page to matplotlib axes."""
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8, length=3)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _cycle(count: int) -> list[str]:
    return [LINES[i % len(LINES)] for i in range(count)]


def _finite_logs(values: Sequence[float]) -> Any:
    numbers = np.asarray([value for value in values if value is not None], dtype=float)
    return np.sort(np.log10(numbers[np.isfinite(numbers) & (numbers > 0)]))


def _value(result: BenchmarkResult | None, name: str) -> Value | None:
    """Return a headline or metric that has a number to plot, else None."""
    value = None if result is None else result.headlines.get(name) or result.metrics.get(name)
    return value if plotted(value) is not None else None


def _spot(result: BenchmarkResult | None, forget: str, utility: str) -> tuple[float, float] | None:
    x, y = plotted(_value(result, utility)), plotted(_value(result, forget))
    return None if x is None or y is None else (x, y)


def _draw_path(
    axes: Any,
    path: Path,
    spots: Sequence[tuple[float, float] | None],
    color: str,
    label: str,
    utility: str,
    selected: int | None,
) -> None:
    found = [(result, spot) for result, spot in zip(path, spots, strict=True) if spot is not None]
    if not found:
        return
    axes.plot(*zip(*(spot for _, spot in found), strict=True), "-o", color=color, markersize=5, linewidth=1.5,
              label=label or "unlearned", zorder=3)  # fmt: skip
    for number, (result, spot) in enumerate(found):
        low, high = _whisker(_value(result, utility))
        axes.plot([low, high], [spot[1]] * 2, color=color, linewidth=1, alpha=0.45, zorder=2)
        if result.step == selected:
            axes.plot(*spot, "o", markersize=12, markerfacecolor="none", markeredgecolor=color, zorder=4)
        if not label and (len(found) <= 12 or number in (0, len(found) - 1) or result.step == selected):
            axes.annotate(f"{result.epoch:g}", spot, xytext=(5, 5), textcoords="offset points", color=color,
                          fontsize=8)  # fmt: skip


def _whisker(value: Value | None) -> tuple[float, float]:
    if value is None or value.low is None or value.high is None:
        return math.nan, math.nan
    return value.low, value.high

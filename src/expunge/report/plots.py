"""Figures as inline SVG whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from expunge.records import BenchmarkResult, TrainPoint, Value

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
_STYLE = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.unicode_minus": True}
Path = Sequence[BenchmarkResult]


def svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an SVG element: text stays text, ids are unique to `name`, colours are CSS variables."""
    stream = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": name}):
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


def log10_quality(value: Value | None) -> float | None:
    """log10 of a forget quality, also where the p-value itself underflows to 0."""
    if value is None or value.point is None:
        return None
    if "log10" in value.extra:
        return value.extra["log10"]
    return math.log10(value.point) if value.point > 0 else None


def trajectory(
    paths: Mapping[str, Path],
    target: BenchmarkResult | None,
    retain_model: BenchmarkResult | None,
    selected: int | None = None,
) -> str | None:
    """Forgetting against utility, epoch by epoch, of one run or of several.

    The vertical axis is log10 of the forget quality where there is one, else the probability of the
    forget answers.

    Args:
        paths: Label -> results of the unlearned model, sorted by step.
        target: The model before unlearning.
        retain_model: The model that never saw the forget set; its own forget quality is 1.
        selected: Step to ring, for a single run.

    Returns:
        SVG, or None where no result has both numbers.
    """
    everything = [result for path in paths.values() for result in path]
    quality = any(log10_quality(result.headlines.get("forget_quality")) is not None for result in everything)
    marks = {role: _spot(result, quality) for role, result in (("target", target), ("retain", retain_model))}
    if retain_model is not None and quality and (utility := _point(retain_model, "model_utility")) is not None:
        marks["retain"] = (utility, 0.0)
    spots = {label: [_spot(result, quality) for result in path] for label, path in paths.items()}
    if not any(spot for path in spots.values() for spot in path):
        return None
    figure, axes = _canvas(7.2, 3.9)
    for color, (label, path) in zip(_cycle(len(paths)), paths.items(), strict=True):
        _draw_path(axes, path, spots[label], color, label if len(paths) > 1 else "", quality, selected)
    if len(paths) == 1 and marks["target"] and (first := next(filter(None, next(iter(spots.values()))), None)):
        axes.plot(*zip(marks["target"], first, strict=True), color=MUTED, linewidth=1, linestyle=":", zorder=1)
    for role, spot in marks.items():
        if spot is not None:
            axes.plot(*spot, _MARKER[role], color=ROLE_COLOR[role], markersize=8, zorder=5)
            axes.annotate(role, spot, xytext=(7, 6), textcoords="offset points", color=ROLE_COLOR[role])
    axes.set_xlabel("model utility", color=INK)
    if quality:
        axes.axhline(math.log10(0.05), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate("0.05", (0, math.log10(0.05)), xycoords=("axes fraction", "data"), xytext=(3, -10),
                      textcoords="offset points", color=MUTED, fontsize=8)  # fmt: skip
        axes.set_ylabel("forget quality (log10 of p)", color=INK)
    else:
        axes.set_ylabel("probability of forget answers", color=INK)
    axes.margins(x=0.12, y=0.12)
    if len(paths) > 1:
        axes.legend(frameon=False, labelcolor=INK, loc="best", fontsize=8)
    return svg(figure, "trajectory", "Forgetting against model utility over the epochs of unlearning")


def ecdf(ratios: Mapping[str, Sequence[float]]) -> str | None:
    """Share of forget questions with a truth ratio up to R, one curve per model, widest gap marked.

    Args:
        ratios: Role -> truth ratio R of each forget question.

    Returns:
        SVG, or None where no model has truth ratios.
    """
    sorted_logs = {role: _finite_logs(values) for role, values in ratios.items()}
    sorted_logs = {role: logs for role, logs in sorted_logs.items() if len(logs)}
    if not sorted_logs:
        return None
    figure, axes = _canvas(7.2, 3.3)
    low = min(logs[0] for logs in sorted_logs.values())
    high = max(logs[-1] for logs in sorted_logs.values())
    pad = 0.04 * (high - low or 1.0)
    for role, logs in sorted_logs.items():
        x = np.concatenate([[low - pad], logs, [high + pad]])
        y = np.concatenate([[0.0], np.arange(1, len(logs) + 1) / len(logs), [1.0]])
        axes.step(x, y, where="post", color=ROLE_COLOR[role], linestyle=_DASH[role], linewidth=1.7, label=role)
    if {"unlearned", "retain"} <= set(sorted_logs):
        where, bottom, top = widest_gap(sorted_logs["unlearned"], sorted_logs["retain"])
        axes.plot([where, where], [bottom, top], color=INK, linewidth=2.2, solid_capstyle="butt", zorder=4)
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
        middle = (where, (bottom + top) / 2)
        axes.annotate(
            f"D = {top - bottom:.3f}", middle, xytext=(6, -3), textcoords="offset points", color=INK, bbox=box
        )
    axes.set_xlabel("truth ratio R (log10); further right: the true answer is less favoured", color=INK)
    axes.set_ylabel("share of forget questions", color=INK)
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, labelcolor=INK, loc="upper left", handlelength=3)
    return svg(figure, "ecdf", "Cumulative distribution of truth ratios on the forget set")


def widest_gap(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Where two empirical distribution functions lie furthest apart, and their two heights there.

    The distance between the heights is the Kolmogorov-Smirnov statistic D = sup |F1(x) - F2(x)|.

    Returns:
        Position, lower height, upper height.
    """
    a, b = np.sort(np.asarray(first)), np.sort(np.asarray(second))
    places = np.concatenate([a, b])
    heights = [np.searchsorted(each, places, side="right") / len(each) for each in (a, b)]
    best = int(np.argmax(np.abs(heights[0] - heights[1])))
    low, high = sorted(float(height[best]) for height in heights)
    return float(places[best]), low, high


def losses(points: Sequence[TrainPoint]) -> str | None:
    """Loss and its weighted terms over the epochs, each on its own scale.

    Returns:
        SVG, or None for a run without training steps.
    """
    if not points:
        return None
    kept = points[:: math.ceil(len(points) / 400)]
    names = list(dict.fromkeys(name for point in points for name in point.terms))
    series = {"loss": [point.loss for point in kept]}
    for name in names:
        series[name] = [point.terms.get(name, math.nan) for point in kept]
    if len(names) == 1:
        del series["loss"]
    columns = min(3, len(series))
    rows = math.ceil(len(series) / columns)
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
    epochs = [point.epoch for point in kept]
    for axes, color, (name, values) in zip(grid, _cycle(len(series)), series.items(), strict=False):
        _dress(axes)
        axes.plot(epochs, values, color=color, linewidth=1.4, marker="." if len(kept) < 30 else "")
        axes.set_title(name.replace("_", " "), color=INK, fontsize=9, loc="left")
        axes.set_xlabel("epoch", color=INK)
    for axes in list(figure.axes)[len(series) :]:
        axes.set_visible(False)
    return svg(figure, "losses", "Training loss by term over the epochs")


def _canvas(width: float, height: float) -> tuple[Figure, Any]:
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    _dress(axes)
    return figure, axes


def _dress(axes: Any) -> None:
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


def _point(result: BenchmarkResult, name: str) -> float | None:
    value = result.headlines.get(name) or result.metrics.get(name)
    return value.point if value is not None else None


def _spot(result: BenchmarkResult | None, quality: bool) -> tuple[float, float] | None:
    if result is None:
        return None
    x = _point(result, "model_utility")
    y = log10_quality(result.headlines.get("forget_quality")) if quality else _point(result, "forget/probability")
    return None if x is None or y is None else (x, y)


def _draw_path(
    axes: Any,
    path: Path,
    spots: Sequence[tuple[float, float] | None],
    color: str,
    label: str,
    quality: bool,
    selected: int | None,
) -> None:
    found = [(result, spot) for result, spot in zip(path, spots, strict=True) if spot is not None]
    if not found:
        return
    axes.plot(*zip(*(spot for _, spot in found), strict=True), "-o", color=color, markersize=5, linewidth=1.5,
              label=label or "unlearned", zorder=3)  # fmt: skip
    for number, (result, spot) in enumerate(found):
        low, high = _whisker(result.headlines.get("model_utility"))
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

from __future__ import annotations

import random
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from report_runs import AXES, number, quality, result

from expunge.records import TrainPoint, Value
from expunge.report import plots

PATH = [
    result("unlearned", quality(p), number(u), 0.5, step=i, epoch=i)
    for i, (p, u) in enumerate(((1e-9, 0.64), (0.02, 0.61), (0.4, 0.60)), start=1)
]
TARGET = result("target", quality(0.0), number(0.65), 0.95)
RETAIN = result("retain", quality(1.0), number(0.66), 0.15)


def texts(svg: str) -> list[str]:
    root = ET.fromstring(svg)
    return [element.text or "" for element in root.iter() if element.tag.endswith("}text")]


def test_trajectory_shows_path_target_retain_model_and_limit() -> None:
    svg = plots.trajectory({"unlearned": PATH}, TARGET, RETAIN, AXES, selected=3)
    assert svg is not None
    assert {"target", "retain", "0.05", "1", "2", "3", "model utility"} <= set(texts(svg))


def test_trajectory_without_quality_falls_back_to_probability() -> None:
    missing = Value.missing("a retain model")
    path = [result("unlearned", missing, number(0.6), 0.4, step=1, epoch=1)]
    svg = plots.trajectory({"unlearned": path}, None, None, AXES)
    assert "forget: probability of the answer" in texts(svg)
    assert plots.trajectory({"unlearned": [result("unlearned", missing, None, 0.4)]}, None, None, AXES) is None


def test_comparison_has_a_legend() -> None:
    svg = plots.trajectory({"run one": PATH, "run two": PATH}, TARGET, RETAIN, AXES)
    assert {"run one", "run two"} <= set(texts(svg))


def test_p_values_are_plotted_by_their_logarithm() -> None:
    """Also where the p-value underflows to 0; other metrics are plotted as they are."""
    assert plots.plotted(quality(0.0)) == -412.3
    assert plots.plotted(quality(0.01)) == pytest.approx(-2)
    assert plots.plotted(Value(point=0.25)) == 0.25
    assert plots.plotted(Value.missing("a retain model")) is None
    assert plots.plotted(None) is None


def test_widest_gap_by_hand() -> None:
    """F1 of (1, 2) and F2 of (2, 3) are 1/2 and 0 at x = 1, then 1 and 1/2 at x = 2: D = 1/2, first at 1."""
    assert plots.widest_gap([2, 1], [3, 2]) == (1.0, 0.0, 0.5)


def test_widest_gap_is_the_ks_statistic() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(1)
    a, b = rng.normal(size=57), rng.normal(0.4, 1.3, size=91)
    _, low, high = plots.widest_gap(a, b)
    assert high - low == pytest.approx(ks_2samp(a, b).statistic)


def test_ecdf_marks_the_distance_and_survives_odd_numbers() -> None:
    rng = random.Random(0)
    ratios = {
        "unlearned": [10 ** rng.gauss(0, 1) for _ in range(50)],
        "retain": [1.0, 2.0, 0.0, float("inf")],
    }
    svg = plots.ecdf(ratios, "truth ratio")
    assert any(text.startswith("D = ") for text in texts(svg))
    assert plots.ecdf({"target": [0.0, float("nan")]}, "truth ratio") is None
    assert plots.ecdf({}, "truth ratio") is None


def test_losses_have_one_panel_per_term() -> None:
    points = [
        TrainPoint(step=i, epoch=i / 10, loss=1.0, lr=1e-5, terms={"forget": 1.0, "retain_kl": 2.0})
        for i in range(2000)
    ]
    svg = plots.losses(points)
    assert {"loss", "forget", "retain kl"} <= set(texts(svg))
    assert len(svg) < 150_000
    assert plots.losses([]) is None


def test_svg_is_safe_to_inline() -> None:
    """Ids are unique to the figure, no rule or metadata leaks out, every colour follows the scheme."""
    svg = plots.ecdf({"target": [0.5, 1.0, 2.0]}, "truth ratio")
    ids = [element.get("id") for element in ET.fromstring(svg).iter() if element.get("id")]
    assert all(name.startswith("ecdf-") for name in ids)
    assert len(ids) == len(set(ids))
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert "#0" not in svg.replace("url(#", "").replace('href="#', "")
    assert 'role="img"' in svg
    assert "<title" in svg


def test_figures_are_reproducible() -> None:
    assert plots.ecdf({"target": [0.5, 1.0]}, "truth ratio") == plots.ecdf({"target": [0.5, 1.0]}, "truth ratio")

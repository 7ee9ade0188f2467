"""The simulation in perf/audits.py: it judges as audits do, and its small version reaches the goals."""

import json
from pathlib import Path

import numpy as np
import pytest
from perf.audits import KINDS, NEVER, SCENARIOS, People, arms, conclude, measure, misses

from expunge.audits.base import BEFORE, Attempt
from expunge.audits.shared.findings import Rule, combine, compare_arms
from expunge.metrics.groups import Grouping

pytestmark = pytest.mark.slow

RECORD = Path(__file__).parents[3] / "results/performance/audits.json"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_simulated_audits_are_judged_like_real_ones(kind, scenario):
    codes = np.repeat(np.arange(10), 5)
    people = People(codes, np.random.default_rng(0))
    scores = arms(people, kind, scenario, 3)
    attempts = {
        arm: [
            Attempt(
                BEFORE if number == 0 else f"attack {number}",
                [{"id": str(i), "group": str(codes[i]), "score": float(score)} for i, score in enumerate(column)],
            )
            for number, column in enumerate(columns)
        ]
        for arm, columns in scores.items()
        if arm != "target"
    }
    attempts["target"] = [Attempt("attack 1", [{**row, "score": float(scores["target"][1][i])} for i, row in
                                               enumerate(attempts["retain"][0].rows)])]  # fmt: skip
    real = combine([compare_arms("probe", attempts, Rule(), {})], {}, Rule())
    simulated = conclude(scores, Grouping.of(codes.tolist()), Rule())
    finding = next(each for each in real.findings if each.attempt == "attack 1")
    assert simulated.outcome == real.outcome
    for name, interval in simulated.intervals.items():
        value = getattr(finding, name)
        assert (interval.low, interval.high) == pytest.approx((value.low, value.high))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_small_simulation(kind):
    """200 audits of 10 people with 5 rows: no goal is missed by more than three standard errors."""
    cells = [measure(kind, scenario, 10, 5, experiments=200) for scenario in SCENARIOS[:3]]
    cells.append(measure(kind, NEVER, 10, 5, attempts=5, experiments=200))
    assert misses(cells) == []


def test_a_leak_of_half_the_knowledge_is_found():
    big = measure(KINDS[0], SCENARIOS[-1], 20, 5, experiments=50)
    assert big.leaks > 0.9


def test_record_reaches_the_goals():
    from perf.audits import Simulation

    record = Simulation.model_validate(json.loads(RECORD.read_text()))
    assert misses(record.cells) == []
    never = [cell for cell in record.cells if cell.scenario == NEVER.name]
    assert np.mean([cell.leaks for cell in never]) <= 0.05

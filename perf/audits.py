"""Simulate audits: false alarms, coverage of the intervals of D, excess and R, power, and false claims of equality.

python -m perf.audits [--experiments 1000] [--quick] [--out audits]

Every experiment generates the scores of one audit with known true means: an unlearned model, a retain model and a
target, before and after several attempts. They are judged by the statistics that `expunge audit` uses
(`metrics.recovery`), with its margin of .05 and its level of 5% for all attempts together.

Scores come from normal variables sqrt(p) s + sqrt(1 - p) e, with s shared by all models and attempts (how hard a row
is), e independent, and p = .5; both have an intra-class correlation of .1 within a person, as in TOFU's published logs.
'probability': quantiles of a beta distribution. 'rate': 0 or 1. 'rare': 0 or 1, with few ones.

| scenario | unlearned model | what is measured |
|---|---|---|
| never trained | as the retain model in every attempt | false alarms: share of audits that end in 'leaks' |
| at the margin | .05 above the retain model | false claims: share that end in 'indistinguishable' |
| leaks .1, leaks .2 | above it by so much, after the attack only | power: share that end in 'leaks' |

The goals: at most 5% false alarms and false claims, and 93% to 97% coverage from 10 people on.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import betaincinv, ndtr, ndtri

from expunge.audits.shared.findings import Rule
from expunge.metrics.groups import Grouping
from expunge.metrics.intervals import Interval
from expunge.metrics.recovery import Mean, holm, residual, share_at_ends
from expunge.records import Leaking, Record
from expunge.rundir import write_record
from perf.measure import machine

Floats = NDArray[np.float64]

RESULTS = Path(__file__).parents[1] / "results" / "performance"
GOAL = (0.93, 0.97)
"""Coverage that intervals of 10 and more people should have."""
NUM_GROUPS = (5, 10, 20, 50)
ROWS_PER_GROUP = (1, 5, 20)
CORRELATION = 0.1
"""Intra-class correlation, as in TOFU's published logs (perf/coverage.py)."""
PAIRING = 0.5
PRECISION = 3.0
"""Sum of the two parameters of the beta distribution of probabilities."""
MANY = (5, 20)
"""Numbers of attempts whose false alarms are measured, with 5 rows per person."""
GRID = np.linspace(0, 1, 4001)
FEW = 200
"""Audits of a cell with many attempts."""
NUMBERS = ("effect", "excess", "residual")


@dataclass(frozen=True)
class Kind:
    """Distribution of scores, with true means of the retain model and the target."""

    name: str
    retain_before: float
    retain_after: float
    target: float
    binary: bool = True


KINDS = [
    Kind("probability", 0.2, 0.25, 0.8, binary=False),
    Kind("rate", 0.2, 0.25, 0.8),
    Kind("rare", 0.02, 0.03, 0.6),
]


@dataclass(frozen=True)
class Scenario:
    """How much the unlearned model is above the retain model."""

    name: str
    before: float
    after: float


NEVER = Scenario("never trained", 0.0, 0.0)
SCENARIOS = [
    NEVER,
    Scenario("at the margin", 0.05, 0.05),
    Scenario("leaks .1", 0.0, 0.1),
    Scenario("leaks .2", 0.0, 0.2),
]


class Cell(Record):
    """Results of the experiments of one situation."""

    kind: str
    scenario: str
    groups: int
    rows_per_group: int
    attempts: int
    """Attempts beside the model as it is."""
    experiments: int
    leaks: float
    """Share of the audits with this outcome."""
    indistinguishable: float
    coverage: dict[str, float]
    """Coverage of the 95% intervals of the first attempt: effect (D), excess and residual (R)."""
    with_interval: dict[str, int]
    median_width: dict[str, float]


class Simulation(Record):
    """Record of this simulation."""

    created: str
    machine: dict[str, Any]
    goal: tuple[float, float]
    cells: list[Cell]
    seconds: float


@functools.cache
def beta_quantiles(mean: float) -> Floats:
    """Return the quantiles of the beta distribution with this mean on `GRID`."""
    return np.asarray(betaincinv(mean * PRECISION, (1 - mean) * PRECISION, GRID), dtype=np.float64)


@dataclass(frozen=True)
class People:
    """Rows about people, and the random numbers of one experiment."""

    codes: NDArray[np.int64]
    rng: np.random.Generator

    def normal(self) -> Floats:
        """Return values with mean 0, variance 1 and the intra-class correlation."""
        between = self.rng.normal(size=int(self.codes.max()) + 1)[self.codes]
        within = self.rng.normal(size=len(self.codes))
        return np.asarray(math.sqrt(CORRELATION) * between + math.sqrt(1 - CORRELATION) * within)

    def scores(self, shared: Floats, mean: float, binary: bool) -> Floats:
        """Return scores with the given true mean."""
        latent = math.sqrt(PAIRING) * shared + math.sqrt(1 - PAIRING) * self.normal()
        if binary:
            return (latent < ndtri(mean)).astype(np.float64)
        return np.interp(ndtr(latent), GRID, beta_quantiles(mean))


@dataclass(frozen=True)
class Outcome:
    """What one simulated audit concludes."""

    outcome: Leaking
    intervals: dict[str, Interval]
    """D, excess and R of the first attempt."""


def arms(people: People, kind: Kind, scenario: Scenario, attempts: int) -> dict[str, list[Floats]]:
    """Generate the scores of all models: as they are, then after each attempt.

    The unlearned model is above the retain model as it is and in the first attempt only, as the scenario states.
    """
    shared = people.normal()
    retain = [kind.retain_before, *([kind.retain_after] * attempts)]
    above = [scenario.before, scenario.after, *([0.0] * (attempts - 1))]
    means = {
        "unlearned": [mean + more for mean, more in zip(retain, above, strict=True)],
        "retain": retain,
        "target": [kind.target] * 2,
    }
    return {arm: [people.scores(shared, mean, kind.binary) for mean in of_arm] for arm, of_arm in means.items()}


def conclude(scores: dict[str, list[Floats]], grouping: Grouping, rule: Rule) -> Outcome:
    """Judge one audit as `audits.shared.findings` does; `tests/unit/audits/test_simulation.py` compares the two."""
    pairs = list(zip(scores["unlearned"], scores["retain"], strict=True))
    compared = [_known(Mean.of(u - r, grouping, share_at_ends(u, r))) for u, r in pairs]
    outcome: Leaking = "inconclusive"
    if min(holm([mean.p_above() for mean in compared])) < rule.level:
        outcome = "leaks"
    elif max(mean.p_different(rule.margin) for mean in compared) < rule.level:
        outcome = "indistinguishable"
    (u_before, r_before), (u_after, r_after) = pairs[:2]
    effect = Mean.of(
        (u_after - r_after) - (u_before - r_before), grouping, share_at_ends(u_before, r_before, u_after, r_after)
    )
    return Outcome(
        outcome,
        {
            "effect": _known(effect).interval(),
            "excess": compared[1].interval(),
            "residual": residual(u_after, r_after, scores["target"][1], grouping)[1],
        },
    )


def _known(mean: Mean | None) -> Mean:
    if mean is None:
        raise ValueError("an audit is simulated with five people or more")
    return mean


def truths(kind: Kind, scenario: Scenario) -> dict[str, float]:
    """Return the true values of the first attempt."""
    return {
        "effect": scenario.after - scenario.before,
        "excess": scenario.after,
        "residual": scenario.after / (kind.target - kind.retain_after),
    }


def measure(
    kind: Kind,
    scenario: Scenario,
    groups: int,
    rows_per_group: int,
    *,
    attempts: int = 1,
    experiments: int = 1000,
) -> Cell:
    """Run the experiments of one cell; their random numbers depend on the cell only."""
    label = f"{kind.name}/{scenario.name}/{groups}/{rows_per_group}/{attempts}"
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    people = People(np.repeat(np.arange(groups), rows_per_group), rng)
    grouping = Grouping.of(people.codes.tolist())
    found = [conclude(arms(people, kind, scenario, attempts), grouping, Rule()) for _ in range(experiments)]
    outcomes = [each.outcome for each in found]
    intervals = {name: _ends(each.intervals[name] for each in found) for name in NUMBERS}
    known = {name: ends for name, ends in intervals.items() if len(ends)}
    true = truths(kind, scenario)
    return Cell(
        kind=kind.name,
        scenario=scenario.name,
        groups=groups,
        rows_per_group=rows_per_group,
        attempts=attempts,
        experiments=experiments,
        leaks=outcomes.count("leaks") / experiments,
        indistinguishable=outcomes.count("indistinguishable") / experiments,
        coverage={
            name: float(((ends[:, 0] <= true[name]) & (true[name] <= ends[:, 1])).mean())
            for name, ends in known.items()
        },
        with_interval={name: len(ends) for name, ends in intervals.items()},
        median_width={name: float(np.median(ends[:, 1] - ends[:, 0])) for name, ends in known.items()},
    )


def _ends(values: Iterator[Interval]) -> Floats:
    """Return the ends of all intervals, shape (k, 2)."""
    ends = [(value.low, value.high) for value in values if value.low is not None and value.high is not None]
    return np.array(ends, dtype=np.float64).reshape(-1, 2)


def cells(experiments: int, quick: bool) -> Iterator[Cell]:
    """Run all cells; the quick version has few sizes."""
    groups, rows = ((5, 20), (1, 20)) if quick else (NUM_GROUPS, ROWS_PER_GROUP)
    for kind in KINDS:
        for num_groups in groups:
            for rows_per_group in rows:
                for scenario in SCENARIOS:
                    yield measure(kind, scenario, num_groups, rows_per_group, experiments=experiments)
            for attempts in MANY:
                count = min(experiments, FEW)
                yield measure(kind, NEVER, num_groups, 5, attempts=attempts, experiments=count)


def table(found: Sequence[Cell]) -> Table:
    """Return the ranges over rows per person, in percent."""
    printed = Table(
        "kind", "people", "false alarms", "false claims", "power .1", "power .2", *(f"coverage {n}" for n in NUMBERS)
    )
    for kind in dict.fromkeys(cell.kind for cell in found):
        for groups in dict.fromkeys(cell.groups for cell in found):
            here = [cell for cell in found if (cell.kind, cell.groups) == (kind, groups)]
            by_name = {s.name: [cell for cell in here if cell.scenario == s.name] for s in SCENARIOS}
            printed.add_row(
                kind,
                str(groups),
                _range(cell.leaks for cell in by_name["never trained"]),
                _range(cell.indistinguishable for cell in by_name["at the margin"]),
                _range(cell.leaks for cell in by_name["leaks .1"]),
                _range(cell.leaks for cell in by_name["leaks .2"]),
                *(_range(cell.coverage[name] for cell in here if name in cell.coverage) for name in NUMBERS),
            )
    return printed


def _range(shares: Iterator[float]) -> str:
    known = [100 * share for share in shares]
    return f"{min(known):.1f} - {max(known):.1f}" if known else ""


def misses(found: Sequence[Cell]) -> list[str]:
    """Return the cells that miss a goal by more than three standard errors."""

    def beyond(share: float, limit: float, count: int) -> bool:
        return share > limit + 3 * math.sqrt(limit * (1 - limit) / count)

    lines = []
    for cell in found:
        place = f"{cell.kind}, {cell.scenario}, {cell.groups} people, {cell.rows_per_group} rows each"
        if cell.scenario == NEVER.name and beyond(cell.leaks, 0.05, cell.experiments):
            lines.append(f"{place}, {cell.attempts} attempts: {cell.leaks:.1%} false alarms")
        if cell.scenario == "at the margin" and beyond(cell.indistinguishable, 0.05, cell.experiments):
            lines.append(f"{place}: {cell.indistinguishable:.1%} false claims of equality")
        for name, coverage in cell.coverage.items():
            if beyond(1 - coverage, 1 - GOAL[0], cell.with_interval[name]):
                lines.append(f"{place}, {cell.attempts} attempts: coverage of {name} is {coverage:.1%}")
    return lines


def main() -> None:
    """Simulate, print, store the record, and fail if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--experiments", type=int, default=1000, help="audits per cell; at most 200 with many attempts")
    parser.add_argument("--quick", action="store_true", help="5 and 20 people, 1 and 20 rows")
    parser.add_argument("--out", default="audits", help="name of the record in results/performance")
    options = parser.parse_args()
    console, start = Console(width=170), time.perf_counter()
    found = []
    for cell in cells(options.experiments, options.quick):
        found.append(cell)
        if len(found) % 20 == 0:
            console.print(f"{len(found)} cells: {time.perf_counter() - start:.0f} s")
    record = Simulation(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        goal=GOAL,
        cells=found,
        seconds=time.perf_counter() - start,
    )
    console.print(table(found))
    write_record(RESULTS / f"{options.out}.json", record)
    missed = misses(found)
    for line in missed:
        console.print(line)
    if missed:
        sys.exit(f"{len(missed)} goals are missed.")


if __name__ == "__main__":
    main()

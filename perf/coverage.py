"""Simulate how often 95% intervals contain the true value, and how often tests have false alarms.

python -m perf.coverage [--experiments 1000] [--resamples 400] [--kinds auc,privleak] [--out coverage]

Every experiment generates rows from a distribution whose true value is known, in groups of dependent rows, and computes
an interval with the function that benchmarks and audits use. The coverage of a cell is the share of experiments whose
interval contains the true value. Its binomial standard error is 0.7% for 1000 experiments, and 1% for 500.

Rows have normal scores with a given intra-class correlation: sqrt(c) u_g + sqrt(1 - c) e_i for row i of group g. Means
and proportions are computed from beta quantiles or thresholds of these scores, so that their true value does not depend
on the correlation. Correlations between .05 and .2 are those of TOFU's published logs (losses of forget rows .10 to
.16, truth ratios .02 to .05) and of leak audits (up to .2). Groups are of equal size, or of sizes between 1 and 60 in
geometric progression.

For leak audits and forget quality, `false_alarms` has the share of experiments with two equal models in which a test
reports a difference at the 5% level.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
import zlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import betaincinv, ndtr, ndtri
from scipy.stats import binomtest

from expunge.metrics.agreement import model_utility
from expunge.metrics.bootstrap import cluster_bootstrap, weighted_mean
from expunge.metrics.fluency import perplexity, resampled_perplexity
from expunge.metrics.intervals import Interval, mean_interval
from expunge.metrics.kolmogorov_smirnov import PairedScores, distance_interval, ks_test, paired_ks_test
from expunge.metrics.permutation import sign_flip_pvalue
from expunge.metrics.privleak import privleak_value
from expunge.metrics.proportions import proportion_interval
from expunge.metrics.separation import Scored, TwoSetBootstrap, membership_auc, resampled_auc, separation_values
from expunge.records import Record, Value
from expunge.rundir import write_record
from perf.measure import machine

Floats = NDArray[np.float64]

RESULTS = Path(__file__).parents[1] / "results" / "performance"
LEVEL = 0.95
GOAL = (0.93, 0.97)
"""Coverage that headlines should have."""
NUM_GROUPS = (2, 4, 5, 10, 20, 50, 100)
CORRELATIONS = (0.05, 0.2)
UTILITY = ((0.9, 0.9, 0.5), (0.45, 0.9, 0.6), (0.4, 0.9, 0.55))
"""True means of probability, ROUGE and truth ratio on TOFU's retain, real authors and world facts sets."""


class Cell(Record):
    """Coverage of one kind of interval in one situation."""

    kind: str
    case: str
    """True value, and what else distinguishes cells of one kind."""
    sizes: str
    """'equal' or 'unequal' groups."""
    groups: int
    correlation: float
    """Intra-class correlation."""
    experiments: int
    with_interval: int
    """Experiments with an interval; the others had none, for a stated reason."""
    coverage: float | None
    below: float | None
    """Share of the intervals that are entirely below the true value."""
    above: float | None
    median_width: float | None


class FalseAlarms(Record):
    """Share of experiments in which a test at the 5% level tells two equal models apart."""

    test: str
    groups: int
    rows_per_group: int
    correlation: float
    pairing: float
    """Correlation of the two models' scores of a row."""
    experiments: int
    rate: float


class Coverage(Record):
    """Record of this simulation."""

    created: str
    machine: dict[str, Any]
    resamples: int
    goal: tuple[float, float]
    cells: list[Cell]
    false_alarms: list[FalseAlarms]
    seconds: float


@dataclass(frozen=True)
class Rows:
    """Rows in groups, and the random numbers of one experiment."""

    codes: NDArray[np.int64]
    """Group of each row."""
    correlation: float
    rng: np.random.Generator
    resamples: int
    seed: int

    @classmethod
    def of(cls, sizes: Sequence[int], correlation: float, rng: np.random.Generator, resamples: int, seed: int) -> Rows:
        """Return rows in groups of the given sizes."""
        return cls(np.repeat(np.arange(len(sizes)), sizes), correlation, rng, resamples, seed)

    @property
    def groups(self) -> list[Hashable]:
        """Group of each row."""
        return list(self.codes.tolist())

    def normal(self) -> Floats:
        """Return scores with mean 0, variance 1 and the intra-class correlation."""
        between = self.rng.normal(size=int(self.codes.max()) + 1)[self.codes]
        within = self.rng.normal(size=len(self.codes))
        return np.asarray(math.sqrt(self.correlation) * between + math.sqrt(1 - self.correlation) * within)

    def paired_with(self, scores: Floats, pairing: float) -> Floats:
        """Return scores with the given correlation with others, row by row."""
        return pairing * scores + math.sqrt(1 - pairing**2) * self.normal()

    def outcomes(self, proportion: float) -> Floats:
        """Return 0 or 1 per row; each group has a beta-distributed proportion."""
        rates = np.full(int(self.codes.max()) + 1, proportion)
        if self.correlation:
            concentration = (1 - self.correlation) / self.correlation
            rates = self.rng.beta(proportion * concentration, (1 - proportion) * concentration, size=len(rates))
        return (self.rng.random(len(self.codes)) < rates[self.codes]).astype(np.float64)

    def shares(self, mean: float, precision: float = 3.0) -> Floats:
        """Return values between 0 and 1 with a beta distribution of the given mean."""
        probabilities = ndtr(self.normal())
        return np.asarray(betaincinv(mean * precision, (1 - mean) * precision, probabilities), dtype=np.float64)

    def other(self, num_groups: int, rows_per_group: int = 1) -> Rows:
        """Return another sample of the same experiment."""
        sizes = [rows_per_group] * num_groups
        return Rows.of(sizes, self.correlation, self.rng, self.resamples, self.seed)


Experiment = Callable[[Rows], tuple[Interval | Value, float]]
"""Generates scores for the rows; returns the interval and the true value."""


def mean(rows: Rows, truth: float) -> tuple[Interval, float]:
    """Mean of values between 0 and 1, such as probabilities or ROUGE."""
    return mean_interval(rows.shares(truth), rows.groups), truth


def proportion(rows: Rows, truth: float) -> tuple[Interval, float]:
    """Accuracy or rate of leaks."""
    return proportion_interval(rows.outcomes(truth), rows.groups), truth


def auc(rows: Rows, truth: float) -> tuple[Value, float]:
    """Membership AUC; forget and holdout set have the same groups. P(f < h) = Phi(shift / sqrt 2)."""
    forget, holdout = rows.normal(), rows.normal() + math.sqrt(2) * ndtri(truth)
    bootstrap = TwoSetBootstrap(Scored(forget, rows.groups), Scored(holdout, rows.groups), rows.resamples, rows.seed)
    return bootstrap.value(functools.partial(resampled_auc, forget, holdout), "AUC", membership_auc.spec, 0), truth


def tpr(rows: Rows, shift: float) -> tuple[Value, float]:
    """TPR at 1% FPR: the threshold is the 1% quantile of holdout rows."""
    forget, holdout = Scored(rows.normal(), rows.groups), Scored(rows.normal() + shift, rows.groups)
    values = separation_values(forget, holdout, "score", rows.resamples, rows.seed)
    return values["tpr_at_1_fpr"], float(ndtr(ndtri(0.01) + shift))


def privleak(rows: Rows, unlearned_auc: float, retain_auc: float) -> tuple[Value, float]:
    """PrivLeak, with scores of unlearned and retain model that have a correlation of .6."""
    forget, holdout = rows.normal(), rows.normal()
    retain_forget, retain_holdout = (rows.paired_with(scores, 0.6) for scores in (forget, holdout))
    groups = rows.groups
    value = privleak_value(
        Scored(forget, groups),
        Scored(holdout + math.sqrt(2) * ndtri(unlearned_auc), groups),
        (Scored(retain_forget, groups), Scored(retain_holdout + math.sqrt(2) * ndtri(retain_auc), groups)),
        rows.resamples,
        rows.seed,
    )
    return value, (retain_auc - unlearned_auc) / (1 - retain_auc) * 100


def utility(rows: Rows, others: tuple[int, int] | None) -> tuple[Interval, float]:
    """Model utility; real authors and world facts have as many groups as the retain set, or their own single rows."""
    num_groups = int(rows.codes.max()) + 1
    sets = [rows, *(rows.other(num, 1 if others else 5) for num in others or (num_groups, num_groups))]
    tables = [[part.shares(truth) for truth in means] for part, means in zip(sets, UTILITY, strict=True)]

    def statistic(*weights: Floats) -> Floats:
        pairs = zip(tables, weights, strict=True)
        return model_utility(np.stack([weighted_mean(column, w) for table, w in pairs for column in table], axis=-1))

    groups = [part.groups for part in sets]
    interval = cluster_bootstrap(statistic, groups, rows.resamples, rows.seed, bounds=model_utility.spec.range)
    return interval, float(model_utility([truth for means in UTILITY for truth in means]))


def text_perplexity(rows: Rows, truth: float) -> tuple[Interval, float]:
    """Perplexity per token of texts of different lengths; losses vary by .6 nats."""
    tokens = np.maximum(5, rows.rng.lognormal(3.5, 0.5, len(rows.codes)).round())
    logp = -tokens * (math.log(truth) + 0.6 * rows.normal())
    statistic = functools.partial(resampled_perplexity, logp, tokens)
    bounds = perplexity.spec.range
    return cluster_bootstrap(statistic, [rows.groups], rows.resamples, rows.seed, bounds=bounds), truth


def difference(rows: Rows, truth: float) -> tuple[Interval, float]:
    """Mean difference of two models on the same rows, as in judgements."""
    first = rows.normal()
    values = truth + first - rows.paired_with(first, 0.8)
    return cluster_bootstrap(functools.partial(weighted_mean, values), [rows.groups], rows.resamples, rows.seed), truth


def distance(rows: Rows, shift: float, pairing: float) -> tuple[Interval, float]:
    """Kolmogorov-Smirnov distance of forget quality: sup |Phi(t) - Phi(t - shift)| = 2 Phi(shift / 2) - 1."""
    first = rows.normal()
    scores = PairedScores.of(first, rows.paired_with(first, pairing) + shift, rows.groups)
    return distance_interval(scores, rows.resamples, rows.seed), float(2 * ndtr(shift / 2) - 1)


@dataclass(frozen=True)
class Case:
    """One kind of interval with one true value."""

    kind: str
    name: str
    experiment: Experiment
    rows_per_group: int = 20


CASES = [
    *(Case("mean", f"{truth:g}", functools.partial(mean, truth=truth)) for truth in (0.15, 0.4)),
    *(Case("proportion", f"{truth:g}", functools.partial(proportion, truth=truth)) for truth in (0.06, 0.25, 0.5)),
    *(Case("auc", f"{truth:g}", functools.partial(auc, truth=truth), 5) for truth in (0.5, 0.8, 0.95)),
    *(
        Case(
            "privleak", f"AUC {a:g}, retain model {b:g}", functools.partial(privleak, unlearned_auc=a, retain_auc=b), 5
        )
        for a, b in ((0.6, 0.5), (0.95, 0.5), (0.4, 0.55))
    ),
    Case("model utility", "100 authors and 117 facts", functools.partial(utility, others=(100, 117))),
    Case("model utility", "equal numbers of groups", functools.partial(utility, others=None)),
    *(Case("perplexity", f"{truth:g}", functools.partial(text_perplexity, truth=truth)) for truth in (3.0, 12.0)),
    Case("paired difference", "0.1", functools.partial(difference, truth=0.1)),
    *(
        Case(
            "distance",
            f"shift {shift:g}, pairing {pairing:g}",
            functools.partial(distance, shift=shift, pairing=pairing),
        )
        for shift in (0.0, 0.6)
        for pairing in (0.0, 0.8)
    ),
    Case("tpr", "at 1% FPR", functools.partial(tpr, shift=2.0), 10),
]


def group_sizes(shape: str, num_groups: int, rows_per_group: int) -> list[int]:
    """Return the number of rows of each group."""
    if shape == "equal":
        return [rows_per_group] * num_groups
    return [int(size) for size in np.geomspace(1, 60, num_groups)]


def measure(case: Case, shape: str, num_groups: int, correlation: float, experiments: int, resamples: int) -> Cell:
    """Run the experiments of one cell; their random numbers depend on the cell only."""
    sizes = group_sizes(shape, num_groups, case.rows_per_group)
    label = f"{case.kind}/{case.name}/{shape}/{num_groups}/{correlation:g}"
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    lows, highs, truths = [], [], []
    for seed in range(experiments):
        interval, truth = case.experiment(Rows.of(sizes, correlation, rng, resamples, seed))
        if interval.low is not None and interval.high is not None:
            lows.append(interval.low)
            highs.append(interval.high)
            truths.append(truth)
    low, high, true = np.array(lows), np.array(highs), np.array(truths)
    # An interval of equal models may end at the true value exactly, up to rounding.
    below, above = (high < true - 1e-12), (low > true + 1e-12)
    known = len(lows) > 0
    return Cell(
        kind=case.kind,
        case=case.name,
        sizes=shape,
        groups=num_groups,
        correlation=correlation,
        experiments=experiments,
        with_interval=len(lows),
        coverage=float(1 - (below | above).mean()) if known else None,
        below=float(below.mean()) if known else None,
        above=float(above.mean()) if known else None,
        median_width=float(np.median(high - low)) if known else None,
    )


def measure_agreement(num_groups: int, correlation: float, pairing: float, experiments: int) -> list[FalseAlarms]:
    """Measure the false alarms of the published and of the paired test of forget quality, 20 rows per group."""
    rng = np.random.default_rng([num_groups, round(100 * correlation), round(100 * pairing)])
    alarms = {"ks": 0, "paired ks": 0}
    for seed in range(experiments):
        rows = Rows.of([20] * num_groups, correlation, rng, 0, seed)
        first = rows.normal()
        second = rows.paired_with(first, pairing)
        alarms["ks"] += ks_test(first, second).pvalue < 1 - LEVEL
        alarms["paired ks"] += paired_ks_test(PairedScores.of(first, second, rows.groups), seed).pvalue < 1 - LEVEL
    return [_alarms(test, count, num_groups, correlation, pairing, experiments) for test, count in alarms.items()]


def measure_leaks(num_groups: int, correlation: float, pairing: float, experiments: int) -> list[FalseAlarms]:
    """Measure the false alarms of sign flips per group and of McNemar's test, 20 rows per group, 25% leaks."""
    rng = np.random.default_rng([num_groups, round(100 * correlation), round(100 * pairing), 1])
    alarms = {"sign flips": 0, "mcnemar": 0}
    for seed in range(experiments):
        rows = Rows.of([20] * num_groups, correlation, rng, 0, seed)
        first = rows.normal()
        leaks = [scores < ndtri(0.25) for scores in (first, rows.paired_with(first, pairing))]
        differences = leaks[0].astype(int) - leaks[1]
        alarms["sign flips"] += sign_flip_pvalue(differences, rows.groups) < 1 - LEVEL
        more, fewer = int((differences > 0).sum()), int((differences < 0).sum())
        alarms["mcnemar"] += more + fewer > 0 and binomtest(more, more + fewer, 0.5).pvalue < 1 - LEVEL
    return [_alarms(test, count, num_groups, correlation, pairing, experiments) for test, count in alarms.items()]


def table(record: Coverage) -> Table:
    """Return the range of coverages of each kind by number of groups, over all cases, sizes and correlations."""
    numbers = [number for number in NUM_GROUPS if any(cell.groups == number for cell in record.cells)]
    printed = Table("kind", "sizes", *(f"{number} groups" for number in numbers), title="coverage in percent")
    for kind in dict.fromkeys(cell.kind for cell in record.cells):
        for shape in ("equal", "unequal"):
            cells = [cell for cell in record.cells if (cell.kind, cell.sizes) == (kind, shape)]
            columns = [[cell.coverage for cell in cells if cell.groups == number] for number in numbers]
            if cells:
                printed.add_row(kind, shape, *map(_range, columns))
    return printed


def _range(coverages: Sequence[float | None]) -> str:
    known = [100 * coverage for coverage in coverages if coverage is not None]
    if not known:
        return "none" if coverages else ""
    return f"{min(known):.1f} - {max(known):.1f}"


def _alarms(
    test: str, count: int, num_groups: int, correlation: float, pairing: float, experiments: int
) -> FalseAlarms:
    return FalseAlarms(
        test=test,
        groups=num_groups,
        rows_per_group=20,
        correlation=correlation,
        pairing=pairing,
        experiments=experiments,
        rate=count / experiments,
    )


def main() -> None:
    """Simulate, print, store the record, and fail if a headline covers its true value too rarely."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--experiments", type=int, default=1000, help="experiments per cell; half for 50 and more groups"
    )
    parser.add_argument("--resamples", type=int, default=400, help="bootstrap resamples per interval")
    parser.add_argument("--kinds", default="", help="kinds of intervals, separated by commas; all by default")
    parser.add_argument("--out", default="coverage", help="name of the record in results/performance")
    options = parser.parse_args()
    kinds = options.kinds.split(",") if options.kinds else list(dict.fromkeys(case.kind for case in CASES))
    unknown = set(kinds) - {case.kind for case in CASES}
    if unknown:
        parser.error(f"no kind {', '.join(sorted(unknown))}; kinds: {', '.join(dict.fromkeys(c.kind for c in CASES))}")
    console, start = Console(width=150), time.perf_counter()
    cells = []
    for case in CASES:
        if case.kind not in kinds:
            continue
        for shape, num_groups in [*(("equal", number) for number in NUM_GROUPS), ("unequal", 10), ("unequal", 20)]:
            for correlation in CORRELATIONS:
                # Below five groups there is no interval, and many groups take long.
                count = 10 if num_groups < 5 else options.experiments // (2 if num_groups > 20 else 1)
                cells.append(measure(case, shape, num_groups, correlation, count, options.resamples))
        console.print(f"{case.kind}, {case.name}: {time.perf_counter() - start:.0f} s")
    false_alarms = [
        alarms
        for num_groups in (10, 20)
        for correlation in (0.0, *CORRELATIONS)
        for pairing in (0.0, 0.5, 0.8)
        for measure_test in (measure_agreement, measure_leaks)
        for alarms in measure_test(num_groups, correlation, pairing, options.experiments)
    ]
    record = Coverage(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        resamples=options.resamples,
        goal=GOAL,
        cells=cells,
        false_alarms=false_alarms,
        seconds=time.perf_counter() - start,
    )
    console.print(table(record))
    write_record(RESULTS / f"{options.out}.json", record)
    # The TPR is no headline; three standard errors allow for chance.
    lowest = GOAL[0] - 3 * math.sqrt(GOAL[0] * (1 - GOAL[0]) / (options.experiments / 2))
    low = [cell for cell in cells if cell.kind != "tpr" and cell.coverage is not None and cell.coverage < lowest]
    for cell in low:
        console.print(
            f"{cell.kind}, {cell.case}, {cell.groups} {cell.sizes} groups, {cell.correlation}: {cell.coverage}"
        )
    if low:
        sys.exit(f"{len(low)} of {len(cells)} cells cover the true value in fewer than {lowest:.1%} of experiments.")


if __name__ == "__main__":
    main()

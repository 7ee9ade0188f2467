"""Evaluate the audits: do they tell models that know some people from models that never knew them?

python -m perf.meta_evaluation --start MODEL [--models 8] [--rows 20] [--work runs/meta-evaluation] [--quick]

MODEL is the folder of a small model that was trained on TOFU's retain90 only. For the environment variable EXPUNGE_TOFU
see perf/model.py. Two pools of models are fine-tuned from it (perf/pools.py): they differ in what they know about the
people of forget10, and not in the style or amount of their training text. One more model of each pool is held out: the
one that knows is the target, and the one that never knew the retain model, for attacks and thresholds that need them.

| number | definition |
|---|---|
| of a model | mean score of an attempt over the rows; thresholds are calibrated on the held-out model |
| AUC | probability that a model that knows has a larger number than one that never knew; ties count half |
| false alarms | share of ordered pairs of models that never knew, one audited and one as its retain model, in *leaks* |
| detected | share of pairs with a model that knows, and one that never knew as its retain model, in *leaks* |
| correlation | Spearman's, between audits, over all models, and within the pools (mean of both) |

Intervals resample models. An audit's number is the mean over those of its attempts that count and attack; `unattacked`
is the probability of the answers without an attack. The goal is at most 5% false alarms. `--quick` has 3 models and
two audits, and writes no record.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from expunge.audits.base import AUDITED, BEFORE, Attempt, Audit
from expunge.audits.shared.findings import Rule, combine, verdict_of
from expunge.commands.audit import AuditConfig
from expunge.config.load import parse
from expunge.metrics.bootstrap import cluster_bootstrap
from expunge.metrics.separation import resampled_auc
from expunge.records import Record, Value
from expunge.records.format import format_value
from expunge.rundir import write_record
from perf.evaluation import RESULTS
from perf.measure import machine
from perf.model import tofu_sets
from perf.pools import KNOWS, NEVER, PoolModel, Pools

Floats = NDArray[np.float64]
Attempts = Mapping[str, Sequence[Attempt]]
"""Audit -> its attempts on one model."""
Key = tuple[str, str, str]
"""Audit, attempt and measure."""

RECIPES = [(16, 1e-3), (10, 2e-3)]
"""Epochs and learning rates, alternating over the models of a pool."""
UNATTACKED: Key = ("quantize", BEFORE, "probability")
ALL = "all audits"
GOAL = 0.05
AUDITS: list[dict[str, Any]] = [
    {"name": "leaks", "views": ["paraphrase", "multiple_choice", "prefix"], "limit": 20, "max_new_tokens": 32},
    {"name": "prompts", "views": ["affirmative", "completion"], "limit": 20, "max_new_tokens": 32},
    {"name": "quantize", "precisions": ["int4"], "measures": ["probability"], "limit": 20},
    {"name": "sampling", "samples": 8, "limit": 20, "max_new_tokens": 32},
    {"name": "contrast", "limit": 20},
    {"name": "depth", "limit": 20},
    {"name": "probe", "limit": 20, "strengths": [0.001], "wrong_answers": 2},
    {"name": "perturb", "sigmas": [0.1], "sparsities": [], "alphas": [], "limit": 20},
]
QUICK = [
    {"name": "quantize", "precisions": ["int4"], "measures": ["probability"], "limit": 20},
    {"name": "perturb", "sigmas": [0.1], "sparsities": [], "alphas": [], "limit": 20},
]
_RESAMPLES = 2000


class AttemptQuality(Record):
    """How well the numbers of one attempt separate the pools."""

    audit: str
    attempt: str
    measure: str
    counted: bool
    knows: float
    """Mean over the models that know."""
    never_knew: float
    auc: Value


class AuditQuality(Record):
    """Verdicts of one audit, or of all of them together, on pairs of models."""

    audit: str
    false_alarms: Value
    false_alarms_same_recipe: Value
    """Of pairs that were trained with the same epochs and learning rate, as a retain model should be."""
    detected: Value


class ModelNumbers(Record):
    """One model with its numbers."""

    name: str
    pool: str
    epochs: int
    lr: float
    numbers: dict[str, float | None]
    """'audit attempt (measure)' -> mean score."""


class MetaEvaluation(Record):
    """Record of this evaluation."""

    created: str
    machine: dict[str, Any]
    start: str
    rows: int
    audits: list[dict[str, Any]]
    models: list[ModelNumbers]
    attempts: list[AttemptQuality]
    verdicts: list[AuditQuality]
    correlations: dict[str, dict[str, float | None]]
    """Audit -> audit -> correlation over all models."""
    correlations_within: dict[str, dict[str, float | None]]
    """The same within the pools."""
    seconds: float
    """Of all attacks, without training."""


@dataclass(frozen=True)
class Audited:
    """A model of a pool with its attempts."""

    model: PoolModel
    attempts: Attempts

    def numbers(self, control: Audited, audits: Sequence[Audit]) -> dict[Key, tuple[float | None, bool]]:
        """Return the mean score of each attempt, and whether it counts, calibrated on a control."""
        found: dict[Key, tuple[float | None, bool]] = {}
        for audit in audits:
            both = {AUDITED: self.attempts[audit.key], "retain": control.attempts[audit.key]}
            for finding in audit.findings(both, Rule()).findings:
                key = (audit.key, finding.attempt, finding.measure)
                found[key] = (finding.after[AUDITED].point, finding.counted)
        return found


def pools(num_models: int) -> list[PoolModel]:
    """Return all models, first the two that are held out."""
    return [
        PoolModel(pool, number, *RECIPES[number % len(RECIPES)])
        for number in range(num_models + 1)
        for pool in (KNOWS, NEVER)
    ]


def audit_models(work: Pools, models: Sequence[PoolModel], audits: Sequence[Audit]) -> list[Audited]:
    """Train all models, and attack them; the first two are the controls of attacks that need some."""
    controls = {"target": work.train(models[0]), "retain": work.train(models[1])}
    found = []
    for number, model in enumerate(models, start=1):
        print(f"[{number} of {len(models)}] {model.name}", flush=True)
        found.append(Audited(model, work.attempts(work.train(model), controls, audits)))
    return found


def separation(knows: Sequence[float], never: Sequence[float]) -> Value:
    """Return the AUC of one number, with its interval over models."""
    scores = [-np.array(knows), -np.array(never)]

    def auc(first: Floats, second: Floats) -> Floats:
        return resampled_auc(*scores, first, second)

    point = float(auc(*(np.ones((1, len(each))) for each in scores))[0])
    value = Value(point=point, n=len(knows) + len(never), how="AUC, models that know against models that never knew")
    groups = [range(len(each)) for each in scores]
    return cluster_bootstrap(auc, groups, _RESAMPLES, 0, bounds=(0.0, 1.0)).attach(value)


def share_of_pairs(leaks: Floats, allowed: Floats, how: str, *, same: bool) -> Value:
    """Return the share of pairs of models in *leaks*, with its interval over models.

    Args:
        leaks: (n, m), 1 where the audit of model i with retain model j ends in *leaks*.
        allowed: (n, m), 1 for the pairs that count.
        how: Description.
        same: Whether rows and columns are the same models, which are then resampled together.
    """
    if not allowed.any():
        return Value.missing("more models")

    def share(rows: Floats, columns: Floats | None = None) -> Floats:
        weights = rows if columns is None else columns
        pairs = np.einsum("bi,ij,bj->b", rows, allowed, weights)
        alarms = np.einsum("bi,ij,bj->b", rows, allowed * leaks, weights)
        return np.divide(alarms, pairs, out=np.full(len(pairs), math.nan), where=pairs > 0)

    sizes = leaks.shape[:1] if same else leaks.shape
    value = Value(
        point=float(share(*(np.ones((1, size)) for size in sizes))[0]), n=int(allowed.sum()), how=how, better="lower"
    )
    return cluster_bootstrap(share, [range(size) for size in sizes], _RESAMPLES, 0, bounds=(0.0, 1.0)).attach(value)


def verdicts(audited: Sequence[Audited], retain: Sequence[Audited], audits: Sequence[Audit]) -> dict[str, Floats]:
    """Return audit -> 1 where the audit of model i with retain model j ends in *leaks*, (n, m); ALL is the battery."""
    names = [*(audit.key for audit in audits), ALL]
    leaks = {name: np.zeros((len(audited), len(retain))) for name in names}
    for (i, ours), (j, theirs) in itertools.product(enumerate(audited), enumerate(retain)):
        if ours is theirs:
            continue
        results = [
            audit.findings({AUDITED: ours.attempts[audit.key], "retain": theirs.attempts[audit.key]}, Rule())
            for audit in audits
        ]
        outcomes = [verdict_of(result.findings)[0] for result in results]
        for name, outcome in zip(names, [*outcomes, combine(results, {}, Rule()).outcome], strict=True):
            leaks[name][i, j] = outcome == "leaks"
    return leaks


def correlations(numbers: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float | None]]:
    """Return Spearman's correlation of all pairs of audits; None where all models are equal."""

    def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
        if min(len(set(first)), len(set(second))) < 2:
            return None
        return float(spearmanr(first, second).statistic)

    return {first: {second: correlation(a, b) for second, b in numbers.items()} for first, a in numbers.items()}


def evaluate(found: Sequence[Audited], audits: Sequence[Audit]) -> dict[str, Any]:
    """Compute everything from the attempts of all models, of which the first two are held out.

    Returns:
        Fields of `MetaEvaluation`: models, attempts, verdicts and both correlations.
    """
    control = found[1]
    measured = [(each, each.numbers(control, audits)) for each in found[2:]]
    pool = {name: [numbers for each, numbers in measured if each.model.pool == name] for name in (KNOWS, NEVER)}
    keys = [key for key in measured[0][1] if all(numbers.get(key, (None,))[0] is not None for _, numbers in measured)]
    attempts = []
    for key in keys:
        columns = {name: [float(numbers[key][0] or 0.0) for numbers in each] for name, each in pool.items()}
        attempts.append(
            AttemptQuality(
                audit=key[0],
                attempt=key[1],
                measure=key[2],
                counted=measured[0][1][key][1],
                knows=float(np.mean(columns[KNOWS])),
                never_knew=float(np.mean(columns[NEVER])),
                auc=separation(columns[KNOWS], columns[NEVER]),
            )
        )
    per_audit = {name: [_per_audit(numbers, keys, audits) for numbers in each] for name, each in pool.items()}
    columns_of = {
        name: {audit: [numbers[audit] for numbers in each] for audit in each[0]} for name, each in per_audit.items()
    }
    within = [correlations(columns) for columns in columns_of.values()]
    everyone = {audit: columns_of[KNOWS][audit] + columns_of[NEVER][audit] for audit in columns_of[KNOWS]}
    return {
        "models": [
            ModelNumbers(
                name=each.model.name,
                pool=each.model.pool,
                epochs=each.model.epochs,
                lr=each.model.lr,
                numbers={title(key): number for key, (number, _) in numbers.items()},
            )
            for each, numbers in measured
        ],
        "attempts": attempts,
        "verdicts": _verdict_quality(found, audits),
        "correlations": correlations(everyone),
        "correlations_within": {
            first: {second: _mean([each[first][second] for each in within]) for second in row}
            for first, row in within[0].items()
        },
    }


def _verdict_quality(found: Sequence[Audited], audits: Sequence[Audit]) -> list[AuditQuality]:
    knows = [each for each in found[2:] if each.model.pool == KNOWS]
    never = [each for each in found if each.model.pool == NEVER]
    alarms, hits = verdicts(never, never, audits), verdicts(knows, never, audits)
    different = 1 - np.eye(len(never))
    recipes = [(each.model.epochs, each.model.lr) for each in never]
    same_recipe = np.array([[float(first == second) for second in recipes] for first in recipes])
    return [
        AuditQuality(
            audit=name,
            false_alarms=share_of_pairs(alarms[name], different, "pairs of models that never knew", same=True),
            false_alarms_same_recipe=share_of_pairs(
                alarms[name], different * same_recipe, "pairs of models that never knew, of one recipe", same=True
            ),
            detected=share_of_pairs(
                hits[name], np.ones_like(hits[name]), "models that know, with models that never knew", same=False
            ),
        )
        for name in alarms
    ]


def _per_audit(
    numbers: Mapping[Key, tuple[float | None, bool]], keys: Sequence[Key], audits: Sequence[Audit]
) -> dict[str, float]:
    """Return audit -> mean over its attempts that count and attack; and the model without an attack."""
    result = {}
    if UNATTACKED in keys:
        result["unattacked"] = float(numbers[UNATTACKED][0] or 0.0)
    for audit in audits:
        chosen = [numbers[key] for key in keys if key[0] == audit.key and key[1] != BEFORE]
        counted = [float(number or 0.0) for number, counts in chosen if counts]
        if counted:
            result[audit.key] = float(np.mean(counted))
    return result


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def title(key: Key) -> str:
    """Return an attempt in words."""
    return f"{key[0]} {key[1]} ({key[2]})"


def run(start: str, num_models: int, num_rows: int, work: Path, specs: Sequence[dict[str, Any]]) -> MetaEvaluation:
    """Train, attack and evaluate; finished parts are read from the work folder."""
    audits = parse({"model": start, "audits": list(specs)}, AuditConfig, source="the audits of this program").audits
    found = audit_models(Pools(start, tofu_sets(), num_rows, work), pools(num_models), audits)
    return MetaEvaluation(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        start=Path(start).name,
        rows=num_rows,
        audits=list(specs),
        **evaluate(found, audits),
        seconds=round(
            sum(each.cost.seconds for model in found for of_audit in model.attempts.values() for each in of_audit)
        ),
    )


def table(record: MetaEvaluation) -> Table:
    """Return the verdicts of all audits."""
    printed = Table("audit", "false alarms", "same recipe", "detected")
    for each in record.verdicts:
        values = (each.false_alarms, each.false_alarms_same_recipe, each.detected)
        printed.add_row(each.audit, *map(format_value, values))
    return printed


def main() -> None:
    """Evaluate, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--start", required=True, help="folder of a model that was trained on retain90 only")
    parser.add_argument("--models", type=int, default=8, help="models of each pool, beside the one held out")
    parser.add_argument("--rows", type=int, default=20, help="forget rows to learn and to audit")
    parser.add_argument("--work", type=Path, default=Path("runs/meta-evaluation"), help="folder of unfinished work")
    parser.add_argument("--quick", action="store_true", help="3 models, two audits, no record")
    options = parser.parse_args()
    num_models, specs = (3, QUICK) if options.quick else (options.models, AUDITS)
    record = run(options.start, num_models, options.rows, options.work, specs)
    console = Console(width=170)
    for each in record.attempts:
        console.print(f"{title((each.audit, each.attempt, each.measure))}: AUC {format_value(each.auc)}")
    console.print(table(record))
    if not options.quick:
        write_record(RESULTS / "meta_evaluation.json", record)


if __name__ == "__main__":
    main()

"""Whether past requests are still forgotten, what utility is left, and whether a retrain is due."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.commands.evaluate import evaluate
from expunge.commands.requests.ledger import History, Ledger
from expunge.commands.requests.rows import hash_rows, load_training_data, read_row_file, write_row_file
from expunge.config.recipe import Recipe
from expunge.data.sets import Row
from expunge.errors import UserError
from expunge.metrics.intervals import mean_interval
from expunge.records import Record, Value
from expunge.records.format import format_number
from expunge.records.requests import Measured, Remaining, RetrainRule
from expunge.runs.results import read_rows

_SMALLEST_KNOWLEDGE = 0.05
"""Least knowledge of the first model, above the retain model's, of which a share can be computed."""
_NO_SCORE = "rows that fit into the model's context"


class RequestState(Record):
    """State of one request."""

    id: str
    received: str
    unlearned: str = ""
    """Time at which it was recorded as unlearned; empty while it is pending."""
    num_rows: int
    purged: bool
    certificates: int
    last: Remaining | None = None
    """Its last measurement."""


class LedgerStatus(Record):
    """The state of a ledger."""

    rule: RetrainRule
    requests: list[RequestState]
    measured: list[Measured]
    is_current: bool
    """Whether the last measurement was made on the current model."""

    @property
    def due(self) -> list[str]:
        """Reasons of the last measurement why a retrain is due."""
        return self.measured[-1].due if self.measured else []


def status(folder: str | Path, *, measure: bool = False) -> LedgerStatus:
    """Return the state of every request and all measurements.

    Args:
        folder: The ledger's folder.
        measure: Measure all past requests and utility on the current model first, and record it.

    Raises:
        UserError: There is no ledger, it was edited, or nothing can be measured.
    """
    ledger = Ledger(folder)
    if measure:
        with ledger.working():
            result = _measure(ledger, ledger.history())
            with ledger.writing() as current:
                ledger.append(current, result)
    history = ledger.history()
    applied, certified = history.applied, [event.id for event in history.certified]
    measured = history.measured
    last = {name: remaining for event in measured for name, remaining in event.requests.items()}
    return LedgerStatus(
        rule=history.opened.rule,
        requests=[
            RequestState(
                id=name,
                received=request.received,
                unlearned=history.entry_of(applied[name])[0].date if name in applied else "",
                num_rows=len(request.rows),
                purged=name in history.purged,
                certificates=certified.count(name),
                last=last.get(name),
            )
            for name, request in history.requested.items()
        ],
        measured=measured,
        is_current=bool(measured) and measured[-1].num_applied == len(applied),
    )


def _measure(ledger: Ledger, history: History) -> Measured:
    """Measure the current, the first and the retain model on the rows of all past requests and on retained rows."""
    current = ledger.current_model(history)
    if current is None:
        raise UserError(
            "no request was unlearned yet, so there is nothing to measure.", fix="Run: expunge requests apply LEDGER"
        )
    files = {name: ledger.rows_file(name) for name in history.applied}
    rows = {name: read_row_file(path) for name, path in files.items() if path.is_file()}
    if not rows:
        raise UserError(
            "the texts of all past requests were purged, so nothing can be measured again.",
            fix="See the last measurement with: expunge requests status LEDGER",
        )
    recipe = ledger.recipe(history)
    retained = _utility_rows(history, recipe)
    models = {"current": (str(current), None), "first": (str(recipe.model.name), recipe.model.revision)}
    retain_model = recipe.model.retain_model
    if retain_model is not None and not retain_model.endswith(".json"):
        models["retain"] = (retain_model, recipe.model.retain_model_revision)
    try:
        forget = ledger.scratch / "forget.jsonl"
        write_row_file(forget, [row for request in rows.values() for row in request])
        data: dict[str, Any] = {"name": "files", "forget": {"path": str(forget)}}
        if retained:
            write_row_file(ledger.scratch / "retain.jsonl", retained)
            data["retain"] = {"path": str(ledger.scratch / "retain.jsonl")}
        scores = {role: _scores(recipe, *model, data, ledger.scratch / role) for role, model in models.items()}
    finally:
        shutil.rmtree(ledger.scratch, ignore_errors=True)
    rule = history.opened.rule
    requests, start = {}, 0
    for name, request in rows.items():
        span = range(start, start := start + len(request))
        values = {role: _mean(found["forget"], span, request, "lower") for role, found in scores.items()}
        requests[name] = remaining_knowledge(values, rule)
    utility = {role: _mean(found["retain"], range(len(retained)), retained, "higher") for role, found in scores.items()}
    *_, last = history.applied
    return Measured(
        after=last,
        num_applied=len(history.applied),
        utility=utility["current"],
        utility_before=utility["first"],
        requests=requests,
        unmeasured={name: "its texts were purged" for name in history.applied if name not in rows},
        due=retrain_reasons(requests, utility["current"], utility["first"], len(history.applied), rule),
    )


def _utility_rows(history: History, recipe: Recipe) -> list[Row]:
    """Return retained rows in the order of their hashes, so that a later request replaces its own rows only."""
    requested = {digest for request in history.requested.values() for digest in request.rows}
    by_hash = hash_rows(history.opened.salt, load_training_data(recipe.data)[1])
    retained = sorted(digest for digest in by_hash if digest not in requested)
    return [by_hash[digest] for digest in retained[: history.opened.utility_rows]]


def _scores(
    recipe: Recipe, model: str, revision: str | None, data: Mapping[str, Any], out: Path
) -> dict[str, dict[int, list[float]]]:
    """Return the extraction strengths of a model: set -> index of the row -> one per piece of the row."""
    same = ("dtype", "attention", "device", "trust_remote_code")
    settings = {name: getattr(recipe.model, name) for name in same}
    result = evaluate(
        {
            "model": {**settings, "name": model, "revision": revision},
            "benchmark": {"name": "custom", "generate": False},
            "data": dict(data),
            "prompt": recipe.prompt.model_dump(mode="json"),
            "evaluate": {"batch_tokens": recipe.evaluate.batch_tokens, "bootstrap": 0},
        },
        out=out,
    )
    scores: dict[str, dict[int, list[float]]] = {"forget": {}, "retain": {}}
    for row in read_rows(out / result.samples):
        if row["extraction_strength"] is not None:
            # Ids are '<set>/<index>', and '<set>/<index>/<piece>' for the pieces of a long text.
            scores[row["set"]].setdefault(int(row["id"].split("/")[1]), []).append(row["extraction_strength"])
    return scores


def _mean(scores: Mapping[int, list[float]], indices: range, rows: Sequence[Row], better: str) -> Value:
    import numpy as np

    scored = [(piece, row.group) for index, row in zip(indices, rows, strict=True) for piece in scores.get(index, [])]
    if not scored:
        return Value.missing(_NO_SCORE if rows else "retained rows")
    values = np.array([score for score, _ in scored], dtype=np.float64)
    value = Value(
        point=float(values.mean()),
        n=len(scored),
        n_missing=sum(index not in scores for index in indices),
        how="mean share of the answer (or text) that the model completes word for word",
        better=better,
    )
    return mean_interval(values, [group for _, group in scored]).attach(value)


def remaining_knowledge(values: Mapping[str, Value], rule: RetrainRule) -> Remaining:
    """Compute the share of the first model's knowledge that is left, above that of the retain model.

    Args:
        values: Knowledge of the rows by the models 'current', 'first' and, if there is one, 'retain'.
        rule: The largest share that counts as forgotten.
    """
    knowledge, before = values["current"], values["first"]
    floor = values.get("retain", Value.missing("a retain model (model.retain_model=...)"))
    remaining = Value.missing(_NO_SCORE)
    if knowledge.point is not None and before.point is not None:
        low = floor.point or 0.0
        known = before.point - low
        if known < _SMALLEST_KNOWLEDGE:
            remaining = Value.missing(
                f"a first model that knew the rows; its knowledge was {format_number(before.point)}"
                + ("" if floor.point is None else f", and the retain model's is {format_number(low)}")
            )
        else:
            remaining = Value(
                point=(knowledge.point - low) / known,
                n=knowledge.n,
                n_missing=knowledge.n_missing,
                how="(knowledge - floor) / (before - floor); the floor is the retain model's knowledge, or 0",
                better="lower",
            )
    return Remaining(
        knowledge=knowledge,
        before=before,
        floor=floor,
        remaining=remaining,
        forgotten=None if remaining.point is None else remaining.point <= rule.remaining_share,
    )


def retrain_reasons(
    requests: Mapping[str, Remaining], utility: Value, before: Value, num_applied: int, rule: RetrainRule
) -> list[str]:
    """Return the reasons why a retrain is due."""
    reasons = []
    if utility.point is not None and before.point is not None and utility.point < rule.utility_share * before.point:
        reasons.append(
            f"utility is {format_number(utility.point)}, below {rule.utility_share:.0%} of the first model's "
            f"{format_number(before.point)}"
        )
    reasons += [
        f"request '{name}' is not forgotten: {remaining.remaining.point:.0%} of the knowledge is there, above "
        f"{rule.remaining_share:.0%}"
        for name, remaining in requests.items()
        if remaining.forgotten is False
    ]
    if rule.max_requests is not None and num_applied >= rule.max_requests:
        reasons.append(f"{num_applied} requests were unlearned, and the limit is {rule.max_requests}")
    return reasons

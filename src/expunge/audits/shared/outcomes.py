"""Outcome of an attack per row: the probability of the true answer, or the share of it that the response contains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError
from expunge.metrics.leakage import find_leak
from expunge.metrics.probability import probability
from expunge.probes.requests import GenerationRequest, ScoreRequest
from expunge.probes.session import Session

SampleRow = dict[str, Any]
Measure = Literal["probability", "recall", "choice"]
"""'probability': of the true answer, per token, P(a|q)^(1/|a|). 'recall': share of the answer's novel words in the
greedy answer (`metrics.leakage.find_leak`). 'choice': whether the true answer has the highest probability per token
among the wrong answers of the data; a tie is not a success, and guessing among k wrong answers gives 1 / (k + 1)."""

_UTILITY_ROWS = 100
MAX_NEW_TOKENS = 64
"""Longest generated answer, in tokens."""


def forget_rows(sets: Sets) -> RowSet:
    """Return the forget rows, with paraphrases and wrong answers where the data has them."""
    return sets.evaluation.get("forget", sets.forget)


def questions(sets: Sets, audit: str, limit: int | None = None) -> tuple[Row, ...]:
    """Return the forget rows that have a question, at most `limit` of them, spread over the set.

    Raises:
        DataError: There are none; `audit` is named in the message.
    """
    rows = [row for row in forget_rows(sets) if row.question]
    if not rows:
        raise DataError(
            f"the forget set of {sets.name} has no questions, which the audit {audit} needs.",
            fix="Give rows with question and answer; for plain text use the benchmark familiarity or custom.",
        )
    return spread(rows, limit)


def utility_rows(sets: Sets) -> tuple[Row, ...]:
    """Return up to 100 retain rows, spread over the set; empty without a retain set."""
    rows = sets.evaluation.get("retain", sets.retain)
    return () if rows is None else spread(rows.rows, _UTILITY_ROWS)


def spread(rows: Sequence[Row], limit: int | None) -> tuple[Row, ...]:
    """Return at most `limit` rows at equal distances, so that they cover all groups of an ordered set."""
    if limit is None or len(rows) <= limit:
        return tuple(rows)
    return tuple(rows[index] for index in np.linspace(0, len(rows) - 1, limit).round().astype(int))


def measure_rows(session: Session, rows: Sequence[Row], measure: Measure) -> list[SampleRow]:
    """Measure each row with a model.

    Args:
        session: Session with the attacked model.
        rows: Rows of the forget set.
        measure: What is measured.

    Returns:
        One entry per row with id, group, question, answer and `score` between 0 and 1; None where the row cannot be
        measured: its text exceeds the context, it has no question to ask, no novel words or no wrong answers.
    """
    scores = {"probability": _probabilities, "recall": _recalls, "choice": _choices}[measure](session, rows)
    return [{**row_columns(row), **scored} for row, scored in zip(rows, scores, strict=True)]


def row_columns(row: Row) -> SampleRow:
    """Return the columns that identify a row, to which an attack adds `score`."""
    return {"id": row.id, "group": row.group or row.id, "question": row.question, "answer": row.answer}


def recall(row: Row, response: str | None) -> SampleRow:
    """Return the share of the answer's novel words in a response as `score`; None without a response or novel words."""
    leak = None if response is None else find_leak(row.answer, response, row.question)
    return {
        "score": None if leak is None else leak.share,
        "response": response,
        "leaked": "" if leak is None else ", ".join(leak.leaked),
    }


def _probabilities(session: Session, rows: Sequence[Row]) -> list[SampleRow]:
    scores = session.score(
        [ScoreRequest("forget", index, "answer", row.question, row.answer) for index, row in enumerate(rows)]
    )
    found = [scores.get(("forget", index, "answer")) for index in range(len(rows))]
    return [
        {"score": None if scored is None else float(probability([-float(scored.logp.mean())])[0])} for scored in found
    ]


def _recalls(session: Session, rows: Sequence[Row]) -> list[SampleRow]:
    answers = session.generate(
        [
            GenerationRequest("forget", index, row.question, MAX_NEW_TOKENS)
            for index, row in enumerate(rows)
            if row.question
        ]
    )
    return [recall(row, answers.get(("forget", index, "answer"))) for index, row in enumerate(rows)]


def _choices(session: Session, rows: Sequence[Row]) -> list[SampleRow]:
    requests = [
        ScoreRequest("forget", index, f"choice/{number}", row.question, text)
        for index, row in enumerate(rows)
        if row.perturbed_answers
        for number, text in enumerate([row.answer, *row.perturbed_answers])
    ]
    scores = session.score(requests)
    results: list[SampleRow] = []
    for index, row in enumerate(rows):
        found = [scores.get(("forget", index, f"choice/{number}")) for number in range(len(row.perturbed_answers) + 1)]
        means = [float(scored.logp.mean()) for scored in found if scored is not None]
        complete = len(means) == len(found) > 1
        results.append({"score": float(means[0] > max(means[1:])) if complete else None})
    return results

"""Sampling: ask every question many times, and look at the most revealing answer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from expunge.audits.base import (
    AUDITED,
    BEFORE,
    Attempt,
    Audit,
    AuditResult,
    Cost,
    SampleRow,
    Value,
    Workload,
)
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.calibration import cross_fitted_thresholds
from expunge.audits.shared.findings import NEEDS_RETAIN, Rule, compare_arms, mean_value
from expunge.audits.shared.outcomes import MAX_NEW_TOKENS, forget_rows, questions, row_columns
from expunge.data.sets import Row, Sets
from expunge.metrics.leakage import find_leak
from expunge.metrics.sampling import Band, expected_maximum, leak_at, sample_counts, simultaneous_band
from expunge.probes.requests import GenerationRequest

SAMPLES = "samples"
_RESAMPLES = 2000
"""Bootstrap resamples of the band."""
_ROWS_PER_STAGE = 50
_NOT_LAST = "only k = n counts, so that k is not chosen by its result"


class Sampling(Audit):
    """Samples n answers to every question from the model's full distribution, and counts the questions that leak.

    A greedy answer hides what a model still answers now and then. Sampling from a part of the distribution (top_p
    below 1) would hide it as well, and is not offered.

    An answer leaks if it contains at least a threshold share of the novel words of the true answer
    (`metrics.leakage.find_leak`). Among n answers a model that never knew has some lucky guesses, so the threshold is
    calibrated on the most revealing of n answers of the retain model: at most `false_alarms` of its rows reach it. It
    is cross-fitted: each row's threshold comes from rows of other groups.

    leak@k = mean over rows of 1 - C(n - c, k) / C(n, k), with c leaks in n answers, for k = 1, 2, 4, ..., n. Only k = n
    is counted in the verdict. Without a retain model, `threshold` is used, and nothing can be concluded.

    All answers to a question share one forward pass of its prompt.
    """

    paper: ClassVar[str] = "leak@k, arXiv:2511.04934; sampling as an audit: Scholten et al. 2024, arXiv:2410.03523"

    samples: int = Field(default=64, ge=2)
    """Sampled answers per question, n."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; above 1, models invent more, including those that never knew."""
    max_new_tokens: int = Field(default=MAX_NEW_TOKENS, ge=1)
    """Maximum number of tokens per answer."""
    false_alarms: float = Field(default=0.05, gt=0, lt=1)
    """Share of the retain model's rows that may leak by chance in n answers."""
    folds: int = Field(default=5, ge=2)
    """Folds of groups in which thresholds are cross-fitted."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """Share of the novel words that makes an answer a leak if there is no retain model to calibrate on."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows, spread over the forget set; null for all."""
    seed: int = Field(default=0, ge=0)
    """Seed of the answers; equal for all models, which makes their difference more precise."""

    def stages(self, sets: Sets) -> list[str]:
        """Return the greedy answers, and the samples of one block of rows after another.

        Raises:
            DataError: There are no questions.
        """
        num = len(self._rows(sets))
        starts = range(0, num, _ROWS_PER_STAGE)
        return [BEFORE, *(f"{SAMPLES} {start + 1}-{min(start + _ROWS_PER_STAGE, num)}" for start in starts)]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: one greedy answer and n samples, of the limited rows."""
        return Workload(passes=(1 + self.samples) * len(self._rows(sets)) / len(forget_rows(sets)))

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Answer every question once greedily, or n times by sampling.

        The rows have the share of novel words in each answer (`shares`); `findings` decides which leak.
        """
        rows, name, count = list(enumerate(self._rows(arm.sets))), BEFORE, 1
        if stage != BEFORE:
            start = (self.stages(arm.sets).index(stage) - 1) * _ROWS_PER_STAGE
            rows, name, count = rows[start : start + _ROWS_PER_STAGE], SAMPLES, self.samples
        answers = arm.session().generate(
            [
                GenerationRequest("forget", index, row.question, self.max_new_tokens)
                if name == BEFORE
                else self._sample(index, row, number)
                for index, row in rows
                for number in range(count)
            ]
        )
        measured = [
            self._judge(row, [answers.get(("forget", index, self._what(name, number))) for number in range(count)])
            for index, row in rows
        ]
        return [Attempt(name, measured, "recall", Cost(passes=count))]

    def findings(self, attempts: Mapping[str, Sequence[Attempt]], rule: Rule) -> AuditResult:
        """Compare leak@k of the models for every k, with one band of differences over all k."""
        attempts = {arm: _joined(found) for arm, found in attempts.items()}
        groups = {row["id"]: row["group"] for found in attempts.values() for each in found for row in each.rows}
        thresholds = self._thresholds(attempts, groups)
        judged = {arm: self._by_count(found, thresholds) for arm, found in attempts.items()}
        result = compare_arms(self.key, judged, rule, self.spec())
        curves = {f"best of {k} (recall)": self._best_values(attempts, k) for k in sample_counts(self.samples)}
        band_values, sentence = self._differences(judged, groups, rule)
        used = sorted(set(thresholds.values()))
        note = (
            f"An answer leaks from {used[0]:.2f} to {used[-1]:.2f} of the novel words on, calibrated on the retain "
            f"model so that at most {self.false_alarms:.0%} of its rows leak in {self.samples} answers."
            if used
            else f"Without a retain model and two groups of rows, leaks are not calibrated: {self.threshold:g} of the "
            "novel words make a leak."
        )
        return result.model_copy(
            update={
                "values": {**result.values, **curves, **band_values},
                "verdict": f"{result.verdict} {sentence}".strip(),
                "notes": [*result.notes, note],
            }
        )

    def _rows(self, sets: Sets) -> tuple[Row, ...]:
        return questions(sets, self.key, self.limit)

    def _sample(self, index: int, row: Row, number: int) -> GenerationRequest:
        return GenerationRequest(
            "forget",
            index,
            row.question,
            self.max_new_tokens,
            what=self._what(SAMPLES, number),
            temperature=self.temperature,
            # Depends on the row itself, so that another limit gives the same answers.
            seed=random.Random(f"{self.seed}/{row.id}/{number}").getrandbits(32),
        )

    @staticmethod
    def _what(name: str, number: int) -> str:
        return "answer" if name == BEFORE else f"sample/{number}"

    def _judge(self, row: Row, responses: Sequence[str | None]) -> SampleRow:
        texts = [text for text in responses if text is not None]
        leaks = {text: find_leak(row.answer, text, row.question) for text in dict.fromkeys(texts)}
        shares = [share for text in texts if (share := leaks[text].share) is not None]
        best = max(leaks, key=lambda text: leaks[text].share or 0.0, default=None)
        return {
            **row_columns(row),
            "score": max(shares, default=None),
            "response": best,
            "leaked": "" if best is None else ", ".join(leaks[best].leaked),
            "shares": shares,
        }

    def _thresholds(self, attempts: Mapping[str, Sequence[Attempt]], groups: Mapping[str, str]) -> dict[str, float]:
        """Return the threshold of each row; empty if they cannot be calibrated."""
        guesses = {
            row["id"]: row["score"]
            for attempt in attempts.get("retain", ())
            if attempt.name == SAMPLES
            for row in attempt.rows
        }
        return cross_fitted_thresholds(guesses, groups, self.false_alarms, self.folds) if guesses else {}

    def _by_count(self, attempts: Sequence[Attempt], thresholds: Mapping[str, float]) -> list[Attempt]:
        """Return the attempts of one model: the greedy answer, and any of k samples for each k."""
        result = []
        for attempt in attempts:
            counts = [1] if attempt.name == BEFORE else sample_counts(self.samples)
            for k in counts:
                result.append(
                    Attempt(
                        BEFORE if attempt.name == BEFORE else f"any of {k}",
                        [self._leak_row(row, k, thresholds.get(row["id"], self.threshold)) for row in attempt.rows],
                        "leak",
                        Cost(passes=k, seconds=round(attempt.cost.seconds * k / counts[-1], 3)),
                        not_counted="" if k == counts[-1] else _NOT_LAST,
                    )
                )
        return result

    def _leak_row(self, row: SampleRow, k: int, threshold: float) -> SampleRow:
        shares = row["shares"]
        score = None
        if shares:
            score = leak_at(len(shares), sum(share >= threshold for share in shares), k)
        return {"id": row["id"], "group": row["group"], "score": score}

    def _best_values(self, attempts: Mapping[str, Sequence[Attempt]], k: int) -> dict[str, Value]:
        """Return E[max of k] of the share of novel words, per model."""
        return {
            arm: mean_value(
                [
                    {**row, "score": expected_maximum(row["shares"], k) if row["shares"] else None}
                    for attempt in found
                    if attempt.name == SAMPLES
                    for row in attempt.rows
                ],
                f"expected largest share of the novel words in {k} answers",
            )
            for arm, found in attempts.items()
        }

    def _differences(
        self, judged: Mapping[str, Sequence[Attempt]], groups: Mapping[str, str], rule: Rule
    ) -> tuple[dict[str, dict[str, Value]], str]:
        """Return the excess of leak@k over the retain model for every k, with a simultaneous band, and it in words."""
        names = [f"any of {k}" for k in sample_counts(self.samples)]
        if "retain" not in judged:
            return {f"excess of {name}": {AUDITED: Value.missing(NEEDS_RETAIN)} for name in names}, ""
        scores = {
            arm: {each.name: {row["id"]: row["score"] for row in each.rows} for each in judged[arm]}
            for arm in (AUDITED, "retain")
        }
        ours, theirs = scores[AUDITED], scores["retain"]
        rows = [
            row for row, score in ours[names[0]].items() if score is not None and theirs[names[0]].get(row) is not None
        ]
        if not rows:
            return {}, ""
        table = np.array([[ours[name][row] - theirs[name][row] for name in names] for row in rows])
        level = 1 - rule.level
        band = simultaneous_band(table, [groups[row] for row in rows], _RESAMPLES, self.seed, level)
        how = "unlearned minus retain model"
        values: dict[str, dict[str, Value]] = {}
        above: list[str] = []
        for column, name in enumerate(names):
            value = Value(point=float(table[:, column].mean()), n=len(rows), how=how, better="retain")
            if isinstance(band, Band):
                value = value.model_copy(
                    update={
                        "low": float(band.low[column]),
                        "high": float(band.high[column]),
                        "how": f"{how}; simultaneous {level:.0%} band over all k, {band.num_groups} groups",
                        "extra": {"p_value": float(band.p_values[column])},
                    }
                )
                above += [name] if band.low[column] > 0 else []
            else:
                value = value.model_copy(update={"how": f"{how}; no interval: {band}", "no_interval": band})
            values[f"excess of {name}"] = {AUDITED: value}
        sentence = "" if not above else f"The band over all k is above the retain model's rate for {', '.join(above)}."
        return values, sentence


def _joined(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts of one model with the blocks of rows joined."""
    joined: dict[str, Attempt] = {}
    for attempt in attempts:
        if (before := joined.get(attempt.name)) is None:
            joined[attempt.name] = attempt
        else:
            cost = before.cost.model_copy(update={"seconds": before.cost.seconds + attempt.cost.seconds})
            joined[attempt.name] = replace(before, rows=[*before.rows, *attempt.rows], cost=cost)
    return list(joined.values())

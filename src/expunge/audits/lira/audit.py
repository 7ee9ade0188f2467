"""The audit: trains shadow models once, and compares every model's answer probabilities with theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge.audits.base import AUDITED, BEFORE, Attempt, Audit, Cost, SampleRow, Workload
from expunge.audits.lira.ratio import Floats, Normal, logit_scaled, offline, online
from expunge.audits.lira.shadows import Shadows
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.findings import NEEDS_RETAIN, Rule
from expunge.audits.shared.fine_tuning import FineTuning, Recipe, encode_rows, scaled_lr
from expunge.audits.shared.outcomes import forget_rows, measure_rows, spread
from expunge.data.sets import Row, Sets
from expunge.errors import DataError
from expunge.metrics.bootstrap import cluster_bootstrap
from expunge.metrics.separation import membership_tpr, resampled_tpr
from expunge.modeling.load import context_length, pad_id_of
from expunge.records import AuditResult, Value

_SHADOW = "shadow model "
_MEMBERSHIP = "membership"
_RATIO = "likelihood ratio"
_TWO_SIDED = "an answer that is less probable than in all shadow models can have a large ratio; `offline` is the test"
_DETECTED = "true positives at 1% false positives"
_FPR = 0.01
_RESAMPLES = 2000


class Lira(Audit):
    """Trains shadow models with and without each person, and tests whether a model looks like those with.

    Likelihood-ratio attack: phi = log(p / (1 - p)) with the probability of the true answer per token,
    p = P(a|q)^(1/|a|), is compared with the phi of shadow models, per row. Shadow models are copies of the retain model
    or the base model (`start`), fine-tuned on a random half of the forget people and on retain rows; they come in pairs
    of complementary halves, so every row is in the training data of half of them. They are trained once, and serve all
    models.

    - `offline` (membership): Phi((phi - mu_out) / sigma_out), the share of shadow models without the row that give its
      answer a lower probability. About 1/2 for a model that never saw the row.
    - `online` (likelihood ratio): Lambda / (1 + Lambda), Lambda = N(phi; mu_in, sigma_in^2) / N(phi; mu_out,
      sigma_out^2). Listed, not counted: with two variances the ratio can be large far below both means, where
      unlearning pushes a model.
    - `before`: the same with one mean and one standard deviation for all rows. D is what the comparison of each row
      with itself adds.

    sigma is common to all rows with fewer than 64 shadow models. The facts `tpr_at_1_fpr...` are the share of rows of
    the unlearned model whose score is above all but 1% of the retain model's, with its 95% interval over people.

    The test is of training on the rows, not of how to get the answers, and it needs a training as cheap as that of a
    small model. It is only as good as the shadow models are like the audited one: they should start from the model
    from which the target was trained (`start=base`), with the same recipe. From the retain model the training is
    shorter; then the scores of the retain model itself, to which all others are compared, show the remaining bias.
    """

    paper: ClassVar[str] = (
        "Carlini et al. 2022, arXiv:2112.03570, algorithm 1 and equation 4; for unlearning: arXiv:2403.01218 (U-LiRA)"
    )

    start: Literal["retain", "base"] = "retain"
    """The arm from whose copies the shadow models are trained."""
    shadows: int = Field(default=16, ge=4, multiple_of=2)
    """Number of shadow models."""
    epochs: int = Field(default=5, ge=1)
    """Passes over the rows of a shadow model."""
    lr: float = Field(default=5e-5, gt=0)
    """Learning rate of AdamW, for all weights."""
    reference_width: int | None = Field(default=2048, ge=1)
    """Hidden size of a model to which the learning rate belongs; for a narrower one it is multiplied by
    reference_width / hidden size. null for the same learning rate at every width."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per step."""
    retain_rows: int | None = Field(default=None, ge=0)
    """Random retain rows that each shadow model learns too; null for as many as forget rows."""
    max_length: int = Field(default=512, ge=2)
    """Tokens of the longest row that is trained on, at most the context of the model; the rest is cut off."""
    limit: int | None = Field(default=None, ge=1)
    """Measure at most so many rows, spread over the forget set; null for all. Training uses all rows."""
    seed: int = Field(default=0, ge=0)
    """Seed of the halves, the retain rows and the batches."""

    def controls_needed(self) -> tuple[str, ...]:
        """Return the arm from which the shadow models start."""
        return (self.start,)

    def stages(self, sets: Sets) -> list[str]:
        """Return the model as it is, and one stage per shadow model.

        Raises:
            DataError: All forget rows are about one person.
        """
        self._shadows(sets).check()
        return [BEFORE, *(f"{_SHADOW}{number + 1}" for number in range(self.shadows))]

    def stages_on(self, role: str, sets: Sets) -> list[str]:
        """Return the shadow models for the arm from which they start, and the model as it is for all arms."""
        stages = self.stages(sets)
        return stages if role == self.start else stages[:1]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: one scoring per model; once, the training and scoring of all shadow models."""
        shadows, num_rows = self._shadows(sets), len(forget_rows(sets))
        share = len(self._tested(sets)) / num_rows
        trained = sum(3 * self.epochs * len(shadows.training_rows(k)) for k in range(self.shadows)) / num_rows
        return Workload(passes=share, once=trained + self.shadows * share, models=2, training=True)

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Score the answers with the model as it is, or with a shadow model that is trained from it."""
        rows = self._tested(arm.sets)
        if stage == BEFORE:
            return [Attempt(BEFORE, measure_rows(arm.session(), rows, "probability"), cost=Cost(passes=1))]
        number = int(stage.removeprefix(_SHADOW)) - 1
        members = self._shadows(arm.sets).members(number)
        with arm.trainable_copy() as model:
            config, tokenizer = model.config, arm.template.tokenizer
            encoded = encode_rows(
                self._shadows(arm.sets).training_rows(number),
                arm.template,
                max_length=min(self.max_length, context_length(config)),
                answer_only=True,
            )
            if not encoded:
                raise DataError(
                    f"no row of {stage} has an answer within its first {self.max_length} tokens.",
                    fix="Raise max_length.",
                )
            recipe = Recipe(scaled_lr(self.lr, self.reference_width, config), self.batch_size, self.seed + number)
            tuning = FineTuning(model, encoded, recipe, pad_id=pad_id_of(tokenizer), title=f"Training {stage}")
            tuning.train_until(math.ceil(self.epochs * len(encoded) / tuning.batch_size))
            found = measure_rows(arm.session_with(model), rows, "probability")
        passes = (3 * tuning.steps * tuning.batch_size + len(rows)) / len(forget_rows(arm.sets))
        return [
            Attempt(
                stage,
                [{**row, "member": row["group"] in members} for row in found],
                cost=Cost(rows=len(encoded), steps=tuning.steps, passes=round(passes, 4)),
            )
        ]

    def calibrate(self, attempts: Mapping[str, Sequence[Attempt]]) -> dict[str, list[Attempt]]:
        """Compare every model with the shadow models, which are left out of the result."""
        shadows = _ShadowScores.of([each for each in attempts[self.start] if each.name != BEFORE])
        return {
            arm: shadows.attempts(next(each for each in found if each.name == BEFORE))
            for arm, found in attempts.items()
        }

    def findings(self, attempts: Mapping[str, Sequence[Attempt]], rule: Rule) -> AuditResult:
        """Compare the models, and add the true positives at 1% false positives."""
        result = super().findings(attempts, rule)
        rows = {
            arm: {attempt.name: attempt.rows for attempt in found} for arm, found in self.calibrate(attempts).items()
        }
        values = {
            name: {arm: _detected(found[name], rows.get("retain", {}).get(name)) for arm, found in rows.items()}
            for name in ("offline", "online")
        }
        findings = [
            finding
            if finding.attempt == BEFORE
            else finding.model_copy(update={"facts": {**finding.facts, **_tpr_facts(values[finding.attempt][AUDITED])}})
            for finding in result.findings
        ]
        tables = {f"{name}, {_DETECTED}": by_arm for name, by_arm in values.items()}
        return result.model_copy(update={"findings": findings, "values": {**result.values, **tables}})

    def _shadows(self, sets: Sets) -> Shadows:
        return Shadows(sets, self.seed, self.retain_rows)

    def _tested(self, sets: Sets) -> tuple[Row, ...]:
        return spread(forget_rows(sets).rows, self.limit)


@dataclass(frozen=True)
class _ShadowScores:
    """phi of all shadow models, fitted."""

    mean_outside: Floats
    """mu_out, (n,)."""
    fitted: dict[str, tuple[Normal, Normal]]
    """Name of an attempt -> distributions with and without the row."""
    cost: Cost

    @classmethod
    def of(cls, shadows: Sequence[Attempt]) -> _ShadowScores:
        """Fit the distributions."""
        phi = np.stack([_phi(shadow.rows) for shadow in shadows])
        inside: NDArray[np.bool_] = np.array([[row["member"] for row in shadow.rows] for shadow in shadows])
        per_row = (Normal.per_row(phi, inside), Normal.per_row(phi, ~inside))
        costs = [shadow.cost for shadow in shadows]
        cost = Cost(
            rows=sum(each.rows for each in costs),
            steps=sum(each.steps for each in costs),
            passes=round(sum(each.passes for each in costs) + 1, 4),
            seconds=round(sum(each.seconds for each in costs), 3),
        )
        of_all = (Normal.of_all(phi, inside), Normal.of_all(phi, ~inside))
        return cls(per_row[1].mean, {BEFORE: of_all, "offline": per_row, "online": per_row}, cost)

    def attempts(self, measured: Attempt) -> list[Attempt]:
        """Return the attempts of one model."""
        phi = _phi(measured.rows)
        result = []
        for measure, name, reason in ((_MEMBERSHIP, "offline", ""), (_RATIO, "online", _TWO_SIDED)):
            for attempt in (BEFORE, name):
                inside, outside = self.fitted[attempt]
                scores = offline(phi, outside) if measure == _MEMBERSHIP else online(phi, inside, outside)
                rows = [
                    {
                        **row,
                        "probability": row["score"],
                        "phi": _number(value),
                        "mean_phi_outside": _number(mean),
                        "score": _number(score),
                    }
                    for row, value, mean, score in zip(measured.rows, phi, self.mean_outside, scores, strict=True)
                ]
                result.append(Attempt(attempt, rows, measure, self.cost, not_counted=reason))
        return result


def _phi(rows: Sequence[SampleRow]) -> Floats:
    """Return phi of each row, NaN where it was not measured, (n,)."""
    return logit_scaled([math.nan if row["score"] is None else row["score"] for row in rows])


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _detected(rows: Sequence[SampleRow], retain: Sequence[SampleRow] | None) -> Value:
    """Return the share of rows whose score is above all but 1% of the retain model's."""
    if retain is None:
        return Value.missing(NEEDS_RETAIN)
    known = [
        (row["score"], other["score"], row["group"])
        for row, other in zip(rows, retain, strict=True)
        if row["score"] is not None and other["score"] is not None
    ]
    if len(known) < 1 / _FPR:
        return Value.missing(f"at least {1 / _FPR:.0f} rows; with {len(known)}, 1% of them is less than one row")
    ours, theirs = (-np.array([pair[side] for pair in known]) for side in (0, 1))
    groups = [group for _, _, group in known]

    def share(counts: Floats) -> Floats:
        """The rows of both models are about the same people, which are resampled together."""
        return resampled_tpr(ours, theirs, counts, counts, _FPR)

    value = Value(
        point=float(share(np.ones((1, len(known))))[0]),
        n=len(known),
        n_missing=len(rows) - len(known),
        how="share of rows whose membership score is above those of all but 1% of the retain model's rows",
        better="retain",
    )
    return cluster_bootstrap(share, [groups], _RESAMPLES, 0, bounds=membership_tpr.spec.range).attach(value)


def _tpr_facts(value: Value) -> dict[str, float]:
    numbers = {"": value.point, "_low": value.low, "_high": value.high}
    return {f"tpr_at_1_fpr{end}": number for end, number in numbers.items() if number is not None}

"""Contrast: decode from the difference of the target and the unlearned model, which an owner of both can compute."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from expunge.audits.base import BEFORE, Attempt, Audit, Cost, Workload
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.outcomes import MAX_NEW_TOKENS, forget_rows, measure_rows, questions, recall, row_columns
from expunge.data.sets import Row, Sets
from expunge.probes.contrast import generate_contrast
from expunge.probes.requests import GenerationRequest


class Contrast(Audit):
    """Decodes greedily with gamma log p_t - (gamma - 1) log p_u, which stresses what the target t has and u has lost.

    The attacker has kept the target, or its probabilities, and asks what its owner wanted removed: the difference
    points to the answers, even if the unlearning was perfect. So the retain model is paired with the target as well,
    and its leak is that of an ideal unlearning; only the excess over it is due to the method. On the target itself the
    attack is plain greedy decoding.

    Only tokens with log p_t > max log p_t - `cutoff` are allowed (`probes.contrast.contrast_scores`). The outcome of a
    row is the share of the answer's novel words that is generated. A model that differs from the target in other
    things than the forget rows can have a negative excess: the difference then points elsewhere.
    """

    paper: ClassVar[str] = "arXiv:2505.24379"
    needs: ClassVar[tuple[str, ...]] = ("target",)

    gammas: list[Annotated[float, Field(ge=1)]] = Field(default=[2.0], min_length=1)
    """Weights of the target's log-probabilities; every weight is an attempt. 1 is the target alone."""
    cutoff: float = Field(default=5.0, gt=0)
    """Greatest distance in nats of a token's log-probability from that of the target's most likely token."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows, spread over the forget set; null for all."""

    def stages(self, sets: Sets) -> list[str]:
        """Return the models as they are, and one stage per weight.

        Raises:
            DataError: There are no questions.
        """
        self._rows(sets)
        return [BEFORE, *map(_stage, self.gammas)]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: one greedy answer, and one answer of two models per weight, of the limited rows."""
        share = len(self._rows(sets)) / len(forget_rows(sets))
        return Workload(passes=(1 + 2 * len(self.gammas)) * share, models=2)

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Answer every question greedily, from the model alone or from its difference to the target."""
        rows, session = self._rows(arm.sets), arm.session()
        if stage == BEFORE or arm.role == "target":
            return [Attempt(stage, measure_rows(session, rows, "recall"), "recall", Cost(passes=1))]
        gamma = next(gamma for gamma in self.gammas if _stage(gamma) == stage)
        requests = [GenerationRequest("forget", index, row.question, MAX_NEW_TOKENS) for index, row in enumerate(rows)]
        with arm.other("target") as target:
            answers = generate_contrast(target.session(), session, requests, gamma=gamma, cutoff=self.cutoff)
        found = [
            {**row_columns(row), **recall(row, answers.get(request.key))}
            for row, request in zip(rows, requests, strict=True)
        ]
        return [Attempt(stage, found, "recall", Cost(passes=2))]

    def _rows(self, sets: Sets) -> tuple[Row, ...]:
        return questions(sets, self.key, self.limit)


def _stage(gamma: float) -> str:
    return f"gamma_{gamma:g}"

"""Base of audits that ask for the answers of forget rows in several kinds of prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from expunge.audits.base import AUDITED, BEFORE, Attempt, Audit, Cost, SampleRow, Workload
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.findings import Rule, mean_value
from expunge.audits.shared.outcomes import forget_rows, questions, spread
from expunge.audits.shared.prompts import AttackPrompt, ask, by_view
from expunge.audits.shared.thresholds import DEFAULT_THRESHOLD, MIN_GROUPS, Judge
from expunge.config.defaults import changed
from expunge.data.sets import RowSet, Sets
from expunge.probes.session import Session
from expunge.records import AuditResult

FALSE_ALARMS = 0.05
"""Largest rate of rows of the retain model that a calibrated threshold counts as leaks."""


class PromptAudit(Audit):
    """Base of audits that ask for the answers of forget rows in several kinds of prompt.

    Each kind of prompt is an attempt, and the unchanged question is the model as it is. A row leaks if the response
    contains at least the share `threshold` of the novel words: content words of the true answer that do not occur in
    the full prompt (`metrics.leakage.find_leak`). In one further attempt, any_of_k, a row leaks if any kind of prompt
    reveals it. More kinds of prompt have more false alarms, so the thresholds are raised together
    (`shared.thresholds.Thresholds.fit`), and the retain model's rate is reported beside the rate of each model.
    """

    settings_of: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Kind of prompt -> the settings that only it uses."""

    views: Sequence[str] = ()
    """Kinds of prompt to use, in addition to the unchanged question."""
    threshold: Literal["calibrated"] | Annotated[float, Field(gt=0, le=1)] = "calibrated"
    """Smallest share of the true answer's novel words that makes a response a leak. 'calibrated': for each kind of
    prompt, the smallest one that at most 5% of the retain model's rows reach; people are split into two halves, and
    rows of one half are judged with the threshold of the other. Without a retain model it is 0.5."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows with a question, spread over the forget set; null for all."""
    max_new_tokens: int = Field(default=100, ge=1)
    """Maximum number of tokens per response."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything that is sampled."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for view, names in self.settings_of.items():
            if view not in self.views and (unused := changed(self, *names)):
                raise ValueError(f"{unused[0]} has no effect, because views does not contain {view}")
        return self

    def kinds(self) -> dict[str, float]:
        """Return the names of all attempts with prompts, and the passes over the forget set that each takes."""
        raise NotImplementedError

    def prompts(self, rows: RowSet, sets: Sets) -> Iterator[AttackPrompt]:
        """Yield the prompts of all chosen kinds but the unchanged question.

        Args:
            rows: All forget rows with a question.
            sets: All data, such as retain rows for examples.
        """
        raise NotImplementedError

    def stages(self, sets: Sets) -> list[str]:
        """Return one stage; answers are cached one by one."""
        self.questions(sets)
        return [self.key]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes of all kinds of prompt over the chosen rows."""
        rows = len(forget_rows(sets))
        share = 1.0 if self.limit is None else min(1.0, self.limit / max(rows, 1))
        return Workload(passes=share * sum(self.kinds().values()))

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Ask all prompts of one model; which responses are leaks is decided when all models have answered."""
        passes = self.kinds()
        found = by_view(self.ask(arm.session()))
        return [Attempt(view, rows, measure="leak", cost=Cost(passes=passes[view])) for view, rows in found.items()]

    def ask(self, session: Session) -> list[SampleRow]:
        """Return one row per prompt, as `shared.prompts.ask`."""
        rows = self.questions(session.sets)
        chosen = self.chosen(rows)
        direct = [AttackPrompt(BEFORE, index, row.question, row.answer) for index, row in enumerate(rows)]
        prompts = [*direct, *self.prompts(rows, session.sets)]
        return ask(session, [prompt for prompt in prompts if prompt.index in chosen], rows, self.max_new_tokens)

    def questions(self, sets: Sets) -> RowSet:
        """Return all forget rows with a question.

        Raises:
            DataError: There are none.
        """
        return RowSet(forget_rows(sets).name, questions(sets, self.key))

    def chosen(self, rows: RowSet) -> set[int]:
        """Return the positions of the rows that are asked for; the others can still serve as clues and examples."""
        positions = {row.id: index for index, row in enumerate(rows)}
        return {positions[row.id] for row in spread(rows.rows, self.limit)}

    def calibrate(self, attempts: Mapping[str, Sequence[Attempt]]) -> dict[str, list[Attempt]]:
        """Decide with the thresholds which rows leak, and add the attempt any_of_k."""
        judge = self._judge(attempts)[0]
        return {arm: judge.judge(found) for arm, found in attempts.items()}

    def findings(self, attempts: Mapping[str, Sequence[Attempt]], rule: Rule) -> AuditResult:
        """Compare the models, and state how the thresholds were chosen."""
        result = super().findings(attempts, rule)
        judge, notes = self._judge(attempts)
        if saturated := judge.saturated(attempts.get("retain", ())):
            notes.append(
                f"The retain model gives away full answers in more than {FALSE_ALARMS:.0%} of the rows with "
                f"{', '.join(saturated)}, so no threshold separates knowledge from guesses there. Check that it never "
                "saw the forget set."
            )
        if unused := [name for name in self.kinds() if name not in {each.name for each in attempts[AUDITED]}]:
            notes.append(f"Not asked, because the data has no row for it: {', '.join(unused)}.")
        names = {
            arm: mean_value([{**row, "score": row["entity_share"]} for row in attempt.rows], "share")
            for arm, found in attempts.items()
            for attempt in found
            if attempt.name == BEFORE
        }
        return result.model_copy(
            update={
                "notes": [*result.notes, *notes],
                "values": {**result.values, "names, dates and numbers given to the unchanged question": names},
            }
        )

    def _judge(self, attempts: Mapping[str, Sequence[Attempt]]) -> tuple[Judge, list[str]]:
        """Return the judge of all rows, and the reason if its threshold could not be calibrated."""
        found = [attempt for each in attempts.values() for attempt in each]
        groups = {row["group"] for attempt in found for row in attempt.rows}
        kinds = [attempt.name for attempt in found]
        if self.threshold != "calibrated":
            return Judge.fixed(kinds, groups, self.threshold), []
        if "retain" in attempts and len(groups) >= MIN_GROUPS:
            return Judge.cross_fitted(attempts["retain"], groups, FALSE_ALARMS), []
        needs = f"rows of at least {MIN_GROUPS} groups" if "retain" in attempts else "a retain model"
        reason = f"The threshold of a leak is {DEFAULT_THRESHOLD:g} of the novel words: calibrating it needs {needs}."
        return Judge.fixed(kinds, groups, DEFAULT_THRESHOLD), [reason]

"""Common knowledge and common sense: ARC, BoolQ, HellaSwag, OpenBookQA, PIQA and WinoGrande, through lm-eval."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from expunge.benchmarks.base import Measurement
from expunge.benchmarks.shared.multiple_choice.base import MultipleChoice, validate_names
from expunge.benchmarks.shared.multiple_choice.tasks import GENERAL, Task
from expunge.benchmarks.shared.paired import NEEDS_TARGET, before_and_after, judge_loss, loss_rule, paired_difference
from expunge.records import Judgement, Label, Value
from expunge.records.format import format_value

_TITLES = {
    "arc_challenge": "ARC-Challenge",
    "arc_easy": "ARC-Easy",
    "boolq": "BoolQ",
    "hellaswag": "HellaSwag",
    "openbookqa": "OpenBookQA",
    "piqa": "PIQA",
    "winogrande": "WinoGrande",
}


class General(MultipleChoice):
    """Accuracy (lm-eval's acc, zero-shot) on seven well-known sets of questions, to measure utility.

    Who's Harry Potter reports these. BoolQ's questions about one passage, and WinoGrande's paired sentences, are
    resampled together. If lm-eval has it, acc_norm (per character of the choice) is among the secondary metrics.
    """

    title: ClassVar[str] = "General knowledge"
    paper: ClassVar[str] = "as in Eldan & Russinovich 2023, arXiv:2310.02238"
    judgement_settings: ClassVar[frozenset[str]] = frozenset({"tolerance"})

    tasks: list[str] = Field(default=list(GENERAL), min_length=1)
    """Any of arc_challenge, arc_easy, boolq, hellaswag, openbookqa, piqa and winogrande."""
    tolerance: float = Field(default=0.02, ge=0, le=1)
    """Judgement: largest loss of mean accuracy against the target that counts as utility kept."""

    @field_validator("tasks")
    @classmethod
    def _validate_tasks(cls, value: list[str]) -> list[str]:
        return validate_names("task", value, list(GENERAL))

    def asked(self) -> list[Task]:
        """Return the selected tasks."""
        return [GENERAL[name] for name in self.tasks]

    def labels(self) -> dict[str, Label]:
        """Return the presentation of each task's accuracy."""
        return {
            name: Label(
                title=f"{_TITLES[name]} accuracy", explain="share of questions answered correctly", better="higher"
            )
            for name in self.groups()
        }

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude whether utility was kept from the paired loss of accuracy, averaged over tasks without weights."""
        quantity = f"mean accuracy over {len(self.tasks)} tasks" if len(self.tasks) > 1 else "accuracy"
        loss, by_task = Value.missing(NEEDS_TARGET), dict[str, Value]()
        if target is not None:
            samples = {
                name: tuple([row for row in side.rows if row["set"] == name] for side in (target, unlearned))
                for name in self.tasks
            }
            loss = paired_difference([(first, second) for first, second in samples.values()], "correct", seed)
            by_task = {
                name: paired_difference([(first, second)], "correct", seed) for name, (first, second) in samples.items()
            }
        utility, reasons = judge_loss(loss, self.tolerance, quantity, "questions")
        return Judgement(
            benchmark=self.key,
            title=self.title,
            utility=utility,
            metrics=before_and_after(quantity, None if target is None else self._mean(target), self._mean(unlearned)),
            reasons=[
                *reasons,
                *(f"Loss on {_TITLES[name]}: {format_value(value)}." for name, value in by_task.items()),
            ],
            rules=[loss_rule(f"{quantity}, unweighted", self.tolerance, "by question")],
        )

    def _mean(self, measurement: Measurement) -> Value:
        """Return the unweighted mean accuracy over tasks, without an interval."""
        values = [measurement.value(name) for name in self.tasks]
        missing = next((value for value in values if value.point is None), None)
        if missing is not None:
            return Value.missing(missing.needs)
        return Value(point=sum(value.point or 0.0 for value in values) / len(values))

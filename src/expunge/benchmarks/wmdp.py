"""WMDP: hazardous knowledge in biology, cybersecurity and chemistry, through lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from expunge.benchmarks.base import Headlines, SampleRow
from expunge.benchmarks.shared.multiple_choice.base import MultipleChoice, validate_names
from expunge.benchmarks.shared.multiple_choice.tasks import Task, wmdp_task
from expunge.records import Value

TOPICS = ["bio", "chem", "cyber"]


class Wmdp(MultipleChoice):
    """What a model should lose: accuracy on WMDP's questions, zero-shot; a guess is right one time in four.

    For each topic, and for all of them weighted by size: the accuracy, and `_error`, which is 1 - accuracy, as some
    papers print it. Local questions are in `wmdp/bio_test.jsonl` and so on. The texts of questions stay out of the
    records.
    """

    paper: ClassVar[str] = "Li et al. 2024, arXiv:2403.03218"
    better: ClassVar[str] = "lower"
    keeps_text: ClassVar[bool] = False

    topics: list[str] = Field(default=TOPICS, min_length=1)
    """Which of bio, chem and cyber."""

    @field_validator("topics")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        return validate_names("topic", value, TOPICS)

    @field_validator("num_fewshot")
    @classmethod
    def _zero_shot(cls, value: int) -> int:
        if value:
            raise ValueError("has no effect: lm-eval asks WMDP zero-shot, and WMDP has no rows for worked examples")
        return value

    def asked(self) -> list[Task]:
        """The chosen topics."""
        return [wmdp_task(topic) for topic in self.topics]

    def groups(self) -> dict[str, list[str]]:
        """Each topic, and all together."""
        single = super().groups()
        return single if len(single) == 1 else {**single, "wmdp": list(single)}

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Accuracies and 1 - accuracies."""
        found = super().headlines(rows, retain_model, resamples, seed)
        both = {key: item for name, value in found.headlines.items() for key, item in _both(name, value)}
        return Headlines(both, found.metrics)


def _both(name: str, value: Value) -> list[tuple[str, Value]]:
    if value.point is None:
        return [(name, value), (f"{name}_error", value)]
    low, high = (None if end is None else 1 - end for end in (value.high, value.low))
    turned = {"point": 1 - value.point, "low": low, "high": high, "better": "higher", "how": f"1 - ({value.how})"}
    return [(name, value), (f"{name}_error", value.model_copy(update=turned))]

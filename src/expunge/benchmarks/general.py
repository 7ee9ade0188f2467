"""Common knowledge and common sense: ARC, BoolQ, HellaSwag, OpenBookQA, PIQA and WinoGrande, through lm-eval."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from expunge.benchmarks.shared.multiple_choice.base import MultipleChoice, validate_names
from expunge.benchmarks.shared.multiple_choice.tasks import GENERAL, Task


class General(MultipleChoice):
    """What a model should keep: accuracy (lm-eval's acc, zero-shot) on seven well-known sets of questions.

    Who's Harry Potter reports these. Questions of BoolQ about one passage, and twins of WinoGrande, are resampled
    together. Where lm-eval has it, acc_norm (per character of the choice) stands among the lesser numbers.
    """

    paper: ClassVar[str] = "as in Eldan & Russinovich 2023, arXiv:2310.02238"

    tasks: list[str] = Field(default=list(GENERAL), min_length=1)
    """Which of arc_challenge, arc_easy, boolq, hellaswag, openbookqa, piqa and winogrande."""

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        return validate_names("task", value, list(GENERAL))

    def asked(self) -> list[Task]:
        """The chosen tasks."""
        return [GENERAL[name] for name in self.tasks]

"""MMLU: school and university knowledge in 57 subjects, through lm-eval."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from expunge.benchmarks.shared.multiple_choice.base import MultipleChoice, validate_names
from expunge.benchmarks.shared.multiple_choice.tasks import Task, mmlu_task

SUBJECTS = [
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
]


class Mmlu(MultipleChoice):
    """What a model should keep: accuracy on MMLU, zero-shot; the mean over subjects, weighted by their size.

    Its interval resamples whole subjects: forgetting hits some of them harder than others. Each subject's own
    accuracy stands among the lesser numbers. Local questions are in `mmlu/<subject>_test.jsonl`, worked examples
    in `mmlu/<subject>_dev.jsonl`.
    """

    paper: ClassVar[str] = "Hendrycks et al. 2021, arXiv:2009.03300"

    subjects: list[str] = Field(default=SUBJECTS, min_length=1)
    """Which subjects; all 57 for the number that papers report."""

    @field_validator("subjects")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        return validate_names("subject", value, SUBJECTS)

    def asked(self) -> list[Task]:
        """The chosen subjects."""
        return [mmlu_task(subject) for subject in self.subjects]

    def groups(self) -> dict[str, list[str]]:
        """All subjects together; a part of them goes by another name, for it is another number."""
        whole = set(self.subjects) == set(SUBJECTS)
        return {"mmlu" if whole else "mmlu_part": [task.name for task in self.asked()]}

    def details(self) -> dict[str, list[str]]:
        """Each subject."""
        return {task.name: [task.name] for task in self.asked()}

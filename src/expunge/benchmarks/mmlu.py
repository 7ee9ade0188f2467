"""MMLU: school and university knowledge in 57 subjects, through lm-eval."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from expunge.benchmarks.base import Measurement
from expunge.benchmarks.shared.multiple_choice.base import MultipleChoice, validate_names
from expunge.benchmarks.shared.multiple_choice.tasks import Task, mmlu_task
from expunge.benchmarks.shared.paired import NEEDS_TARGET, before_and_after, judge_loss, loss_rule, paired_difference
from expunge.records import Judgement, Label, Value

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
    """Accuracy on MMLU, zero-shot: the mean over subjects, weighted by their size.

    Its interval treats subjects as groups, since unlearning affects some of them more than others. The accuracy of each
    subject is among the secondary metrics. Local questions are in `mmlu/<subject>_test.jsonl`, worked examples in
    `mmlu/<subject>_dev.jsonl`.
    """

    title: ClassVar[str] = "MMLU"
    paper: ClassVar[str] = "Hendrycks et al. 2021, arXiv:2009.03300"
    judgement_settings: ClassVar[frozenset[str]] = frozenset({"tolerance"})

    subjects: list[str] = Field(default=SUBJECTS, min_length=1)
    """Subjects to ask; all 57 for the number that papers report."""
    tolerance: float = Field(default=0.02, ge=0, le=1)
    """Judgement: largest loss of accuracy against the target that counts as utility kept."""

    @field_validator("subjects")
    @classmethod
    def _validate_subjects(cls, value: list[str]) -> list[str]:
        return validate_names("subject", value, SUBJECTS)

    def asked(self) -> list[Task]:
        """Return the selected subjects."""
        return [mmlu_task(subject) for subject in self.subjects]

    def groups(self) -> dict[str, list[str]]:
        """Return all subjects pooled; a selection of subjects is reported as `mmlu_part`."""
        complete = set(self.subjects) == set(SUBJECTS)
        return {"mmlu" if complete else "mmlu_part": [task.name for task in self.asked()]}

    def details(self) -> dict[str, list[str]]:
        """Return each subject."""
        return {task.name: [task.name] for task in self.asked()}

    def labels(self) -> dict[str, Label]:
        """Return the presentation of the accuracy."""
        subjects = "57 subjects" if "mmlu" in self.groups() else f"{len(self.subjects)} of 57 subjects"
        return {
            name: Label(
                title="MMLU accuracy",
                explain=f"share of questions from {subjects} answered correctly; chance is 0.25",
                better="higher",
            )
            for name in self.groups()
        }

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude whether utility was kept from the paired loss of accuracy against the target."""
        (name,) = self.groups()
        loss = Value.missing(NEEDS_TARGET)
        if target is not None:
            # Both models answer the same subjects, so a resample varies the questions only.
            before, after = ([{**row, "group": ""} for row in rows] for rows in (target.rows, unlearned.rows))
            loss = paired_difference([(before, after)], "correct", seed)
        utility, reasons = judge_loss(loss, self.tolerance, "MMLU accuracy", "questions")
        return Judgement(
            benchmark=self.key,
            title=self.title,
            utility=utility,
            metrics=before_and_after(
                "MMLU accuracy", None if target is None else target.value(name), unlearned.value(name)
            ),
            reasons=reasons,
            rules=[loss_rule("MMLU accuracy", self.tolerance, "by question")],
        )

"""Base of the multiple-choice benchmarks: settings, location of the questions, accuracies with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.benchmarks.base import Benchmark, Headlines, Plan, SampleRow
from expunge.benchmarks.shared.multiple_choice.tasks import Task
from expunge.console import note
from expunge.data.mcq import QuestionFile, find_file, question_folder, read_questions
from expunge.data.sets import Sets
from expunge.errors import DataError, IncompatibleError, MissingExtraError, UserError, nearest
from expunge.metrics.base import Better
from expunge.metrics.intervals import Interval, mean_interval
from expunge.metrics.proportions import proportion_interval
from expunge.records import Label, Value

if TYPE_CHECKING:
    from expunge.probes.session import Session


@dataclass(frozen=True)
class LocalQuestions:
    """Questions of one task from local files."""

    file: QuestionFile
    shots: QuestionFile | None
    """Worked examples."""


class MultipleChoice(Benchmark):
    """Base of the benchmarks that lm-eval runs.

    A question counts as answered correctly if the right choice has the highest log-likelihood, summed over its tokens,
    as in lm-eval. A question with a choice that does not fit into the model's context is counted as not scored; lm-eval
    would truncate its beginning.
    """

    needs_sets: ClassVar[bool] = False
    better: ClassVar[Better] = "higher"
    keeps_text: ClassVar[bool] = True
    """Whether records contain the texts of questions."""

    data: str = "auto"
    """Source of the questions: 'hub', a folder of JSONL files, or 'auto': the folder in the environment variable
    EXPUNGE_MCQ, if it has a file for every task; else the hub."""
    limit: int | None = Field(default=None, ge=1)
    """Ask only the first questions of each task; tables state it as the unit."""
    num_fewshot: int = Field(default=0, ge=0)
    """Worked examples before each question."""
    apply_chat_template: bool = False
    """Put prompts into the tokenizer's chat template; most published numbers are without it."""
    batch_size: int = Field(default=16, ge=1)
    """Sequences per forward pass."""

    def asked(self) -> list[Task]:
        """Return the lm-eval tasks to run."""
        raise NotImplementedError

    def groups(self) -> dict[str, list[str]]:
        """Map each headline to the tasks that are pooled in it."""
        return {task.name: [task.name] for task in self.asked()}

    def details(self) -> dict[str, list[str]]:
        """Map each secondary metric to the tasks that are pooled in it."""
        return {}

    def metric_labels(self) -> dict[str, Label]:
        """Return the presentation of accuracies by task and of differences to the retain model."""
        return {
            "acc": Label(title="accuracy", explain="share of questions answered correctly", better=self.better),
            "acc_norm": Label(
                title="accuracy, length-normalised",
                explain="the likeliest choice per character counts as the answer",
                better=self.better,
            ),
            "difference": Label(title="accuracy minus the retain model's", better=self.better, needs_retain_model=True),
        }

    def files(self) -> list[str]:
        """Return the local files of questions."""
        _, files = self._locate()
        return [*super().files(), *(str(path) for path, _ in files.values())]

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "id", "group", "question", "choices", "gold"),
            *("logp", "correct", "correct_norm", "prompt_hash", "task_hash"),
        )

    def plan(self, sets: Sets) -> Plan:
        """Return the facts that identify the questions; lm-eval asks them in `run`.

        Raises:
            DataError: Local questions are missing or malformed.
            MissingExtraError: lm-eval is not installed.
        """
        harness, local = _lm_eval(), self._local()
        tasks = {task.name: {**harness.definition(task), **_file_facts(local.get(task.name))} for task in self.asked()}
        return Plan(sets={}, facts={"lm_eval": harness.VERSION, "tasks": tasks})

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """Ask the questions through lm-eval and return one record per question.

        Raises:
            UserError: The tokenizer has no chat template, or the hub's questions cannot be loaded.
        """
        if self.apply_chat_template and not session.tokenizer.chat_template:
            raise UserError(
                f"{self.name}: apply_chat_template is set, but the tokenizer of {session.label} has no chat template.",
                fix="Set apply_chat_template=false, or use the chat model's tokenizer.",
            )
        harness, local = _lm_eval(), self._local()
        self._print_source(local, plan)
        tasks = []
        for task in self.asked():
            questions = local.get(task.name)
            tasks.append((task, harness.build(task, questions and questions.file, questions and questions.shots)))
        rows: list[SampleRow] = harness.ask(
            session,
            tasks,
            num_fewshot=self.num_fewshot,
            limit=self.limit,
            apply_chat_template=self.apply_chat_template,
            batch_size=self.batch_size,
        )
        return rows if self.keeps_text else [{**row, "question": "", "choices": []} for row in rows]

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Compute accuracies; with a retain model also the paired differences to it, question by question."""
        unit = "" if self.limit is None else f"of the first {self.limit} rows"
        compute = Accuracies(rows, retain_model, unit, self.better)
        headlines = {name: compute.accuracy(tasks) for name, tasks in self.groups().items()}
        metrics = {f"{name}/acc": compute.accuracy(tasks, clustered=False) for name, tasks in self.details().items()}
        for name, tasks in self.groups().items():
            if any(row["correct_norm"] is not None for row in rows if row["set"] in tasks):
                metrics[f"{name}/acc_norm"] = compute.accuracy(tasks, "correct_norm")
            if retain_model is not None:
                metrics[f"{name}/difference"] = compute.difference(tasks)
        return Headlines(headlines, metrics)

    def compare_settings(self, settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> None:
        """Raise if the retain model was asked other questions, or in another way."""
        for key in ("lm_eval", "tasks", "limit", "num_fewshot", "apply_chat_template"):
            if settings.get(key) != retain_settings.get(key):
                raise IncompatibleError(
                    f"{self.name}: the retain model was measured with another '{key}' than the model.",
                    fix="Measure the retain model again with the same settings and questions.",
                )

    def _locate(self) -> tuple[Path | None, dict[str, tuple[Path, str]]]:
        """Return the folder of questions, and file and split of each task; no files if the hub is used.

        Raises:
            DataError: The folder lacks a file, and `data` is not 'auto'.
        """
        folder = question_folder(self.data)
        if folder is None:
            return None, {}
        files = {task.name: find_file(folder, task.layout.stem) for task in self.asked()}
        missing = [task.layout.stem for task in self.asked() if files[task.name] is None]
        if not missing:
            return folder, {name: file for name, file in files.items() if file is not None}
        if self.data == "auto":
            return folder, {}
        raise DataError(
            f"{folder} has no questions for {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}.",
            allowed=f"Looked for: {folder / missing[0]}_test.jsonl (or _validation, or _val).",
            fix="Add the files, or set data=hub.",
        )

    def _local(self) -> dict[str, LocalQuestions]:
        """Read the questions of each task from local files; empty if the hub is used."""
        folder, files = self._locate()
        local = {}
        for task in self.asked() if folder is not None and files else ():
            path, split = files[task.name]
            shots = None
            if self.num_fewshot:
                shots_file = find_file(folder, task.layout.stem, (str(task.shots),)) if folder else None
                if shots_file is None:
                    raise DataError(
                        f"num_fewshot is {self.num_fewshot}, but {folder} has no worked examples for {task.name}.",
                        fix=f"Add {task.layout.stem}_{task.shots}.jsonl, or set num_fewshot=0.",
                    )
                shots = read_questions(*shots_file, task.layout)
            local[task.name] = LocalQuestions(read_questions(path, split, task.layout), shots)
        return local

    def _print_source(self, local: Mapping[str, LocalQuestions], plan: Plan) -> None:
        folder, _ = self._locate()
        if not local:
            incomplete = f" ({folder} does not have them all)" if folder else ""
            note(f"Questions of {self.name}: the hub{incomplete}.")
            return
        other_splits = [
            f"{name} ({questions.file.split} rows)"
            for name, questions in local.items()
            if questions.file.split != plan.facts["tasks"][name]["hub_split"]
        ]
        differs = f" Not the split that lm-eval takes from the hub: {', '.join(other_splits)}." if other_splits else ""
        note(f"Questions of {self.name}: {folder}.{differs}")


@dataclass(frozen=True)
class Accuracies:
    """Computes shares of correct answers with intervals, from the records of questions."""

    rows: Sequence[SampleRow]
    retain_model: Sequence[SampleRow] | None
    unit: str
    better: Better

    def accuracy(self, tasks: Sequence[str], column: str = "correct", *, clustered: bool = True) -> Value:
        """Compute the share of correct answers over all questions of some tasks, with Wilson's interval.

        Questions have equal weight, so tasks weigh by their size. Dependent questions (on one passage, of one subject)
        are a group, and count as fewer in the interval.
        """
        asked = [row for row in self.rows if row["set"] in tasks]
        scored = [row for row in asked if row[column] is not None]
        if not scored:
            return Value.missing("a longer context: every prompt is longer than the model's" if asked else "questions")
        values = np.array([row[column] for row in scored], dtype=np.float64)
        groups = [(clustered and row["group"]) or (row["set"], row["index"]) for row in scored]
        criterion = "the likeliest" if column == "correct" else "the likeliest per character"
        interval = proportion_interval(values, groups)
        return self._value(float(values.mean()), interval, len(asked), scored, f"right choice is {criterion}")

    def difference(self, tasks: Sequence[str]) -> Value:
        """Compute the accuracy minus the retain model's, over the questions that were scored for both."""
        retain = {(row["set"], row["index"]): row["correct"] for row in self.retain_model or ()}
        asked = [row for row in self.rows if row["set"] in tasks]
        scored = [
            row for row in asked if row["correct"] is not None and retain.get((row["set"], row["index"])) is not None
        ]
        if not scored:
            return Value.missing("questions that were scored for both the model and the retain model")
        values = np.array([float(row["correct"]) - retain[row["set"], row["index"]] for row in scored])
        groups = [row["group"] or (row["set"], row["index"]) for row in scored]
        interval = mean_interval(values, groups)
        how = "accuracy minus the retain model's on the same questions"
        return self._value(float(values.mean()), interval, len(asked), scored, how)

    def _value(self, point: float, interval: Interval, num_asked: int, scored: Sequence[SampleRow], how: str) -> Value:
        value = Value(
            point=point,
            n=len(scored),
            n_missing=num_asked - len(scored),
            how=how,
            unit=self.unit,
            better=self.better,
        )
        return interval.attach(value)


def validate_names(kind: str, values: list[str], options: Sequence[str]) -> list[str]:
    """Return the names unchanged, or raise.

    Raises:
        ValueError: A name is unknown (the message gives the nearest) or listed twice.
    """
    for value in values:
        if value not in options:
            raise ValueError(f"no {kind} is called '{value}'. {nearest(value, options)}")
        if values.count(value) > 1:
            raise ValueError(f"the {kind} '{value}' is listed more than once")
    return values


def _file_facts(local: LocalQuestions | None) -> dict[str, Any]:
    """Return the facts that identify local questions, wherever they are stored; empty for the hub."""
    if local is None:
        return {}
    file, shots = local.file, local.shots
    facts = {"file": file.path.name, "split": file.split, "rows": len(file.questions), "hash": file.hash}
    return facts if shots is None else {**facts, "examples": shots.hash}


def _lm_eval() -> Any:
    try:
        from expunge.benchmarks.shared.multiple_choice import lm_eval as harness
    except ImportError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise
        raise MissingExtraError("lm-eval", "eval", "this benchmark") from error
    return harness

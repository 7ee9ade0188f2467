"""What the multiple-choice benchmarks share: settings, where their questions are, and accuracies with intervals."""

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
from expunge.metrics.intervals import mean_interval, wilson
from expunge.records import Value

if TYPE_CHECKING:
    from expunge.probes.session import Session


@dataclass(frozen=True)
class Local:
    """Local rows of one task."""

    file: QuestionFile
    shots: QuestionFile | None


class MultipleChoice(Benchmark):
    """Base of the benchmarks that lm-eval runs.

    A question counts as answered rightly where the right choice has the highest log-likelihood of all, summed over
    its tokens, as in lm-eval. A question with a choice that does not fit into the model's context is counted as not
    scored; lm-eval would cut off its beginning.
    """

    needs_sets: ClassVar[bool] = False
    better: ClassVar[str] = "higher"
    keeps_text: ClassVar[bool] = True
    """Whether the texts of questions go into the records."""

    data: str = "auto"
    """Where the questions are: 'hub', a folder of JSONL files, or 'auto': the folder that the environment variable
    EXPUNGE_DATA names, else data/mcq, shared/data/mcq or ../shared/data/mcq, if it has a file for every task; else
    the hub."""
    limit: int | None = Field(default=None, ge=1)
    """Ask only the first questions of each task; the table says so."""
    num_fewshot: int = Field(default=0, ge=0)
    """Worked examples before each question."""
    apply_chat_template: bool = False
    """Put prompts into the tokenizer's chat template; published numbers are mostly without."""
    batch_size: int = Field(default=16, ge=1)
    """Sequences per forward pass."""

    def asked(self) -> list[Task]:
        """The tasks of lm-eval that are asked."""
        raise NotImplementedError

    def groups(self) -> dict[str, list[str]]:
        """Headline -> names of the tasks whose questions it is the share of."""
        return {task.name: [task.name] for task in self.asked()}

    def details(self) -> dict[str, list[str]]:
        """The same for the lesser numbers."""
        return {}

    def files(self) -> list[str]:
        """The local files of questions."""
        _, found = self._found()
        return [*super().files(), *(str(path) for path, _ in found.values())]

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "id", "group", "question", "choices", "gold"),
            *("logp", "correct", "correct_norm", "prompt_hash", "task_hash"),
        )

    def plan(self, sets: Sets) -> Plan:
        """What identifies the questions; they are asked in `run`, by lm-eval.

        Raises:
            DataError: Local questions are missing or malformed.
            MissingExtraError: lm-eval is not installed.
        """
        harness, local = _lm_eval(), self._local()
        tasks = {task.name: {**harness.definition(task), **_facts(local.get(task.name))} for task in self.asked()}
        return Plan(sets={}, facts={"lm_eval": harness.VERSION, "tasks": tasks})

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """Let lm-eval ask.

        Raises:
            UserError: The tokenizer has no chat template, or the hub's questions cannot be loaded.
        """
        if self.apply_chat_template and not session.tokenizer.chat_template:
            raise UserError(
                f"{self.name}: apply_chat_template is on, but the tokenizer of {session.label} has no chat template.",
                fix="Leave it off, or use the chat model's tokenizer.",
            )
        harness, local = _lm_eval(), self._local()
        self._say_where(local, plan)
        built = []
        for task in self.asked():
            here = local.get(task.name)
            built.append((task, harness.build(task, here and here.file, here and here.shots)))
        rows: list[SampleRow] = harness.ask(
            session,
            built,
            num_fewshot=self.num_fewshot,
            limit=self.limit,
            apply_chat_template=self.apply_chat_template,
            batch_size=self.batch_size,
        )
        return rows if self.keeps_text else [{**row, "question": "", "choices": []} for row in rows]

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Accuracies; with a retain model also the paired differences to it, question by question."""
        unit = "" if self.limit is None else f"of the first {self.limit} rows"
        made = Accuracies(rows, retain_model, resamples, seed, unit, self.better)
        heads = {name: made.accuracy(tasks) for name, tasks in self.groups().items()}
        metrics = {f"{name}/acc": made.accuracy(tasks, clustered=False) for name, tasks in self.details().items()}
        for name, tasks in self.groups().items():
            if made.has_norm(tasks):
                metrics[f"{name}/acc_norm"] = made.accuracy(tasks, "correct_norm")
            if retain_model is not None:
                metrics[f"{name}/difference"] = made.difference(tasks)
        return Headlines(heads, metrics)

    def check_retain_model(
        self,
        rows: Sequence[SampleRow],
        retain_model: Sequence[SampleRow],
        settings: Mapping[str, Any],
        retain_settings: Mapping[str, Any],
    ) -> None:
        """Refuse a retain model that was asked other questions, or in another way."""
        for key in ("lm_eval", "tasks", "limit", "num_fewshot", "apply_chat_template"):
            if settings.get(key) != retain_settings.get(key):
                raise IncompatibleError(
                    f"{self.name}: the retain model was measured with another '{key}' than the model.",
                    fix="Measure the retain model again with the same settings.",
                )

    def _found(self) -> tuple[Path | None, dict[str, tuple[Path, str]]]:
        """The folder that was looked into, and the file and split of each task; none of them for the hub."""
        folder = question_folder(self.data)
        if folder is None:
            return None, {}
        found = {task.name: find_file(folder, task.layout.stem) for task in self.asked()}
        lacking = [task.layout.stem for task in self.asked() if found[task.name] is None]
        if not lacking:
            return folder, {name: place for name, place in found.items() if place is not None}
        if self.data == "auto":
            return folder, {}
        raise DataError(
            f"{folder} has no questions for {', '.join(lacking[:3])}{' and more' if len(lacking) > 3 else ''}.",
            allowed=f"Looked for: {folder / lacking[0]}_test.jsonl (or _validation, or _val).",
            fix="Add the files, or set data=hub.",
        )

    def _local(self) -> dict[str, Local]:
        folder, found = self._found()
        local = {}
        for task in self.asked() if folder is not None and found else ():
            path, split = found[task.name]
            shots = None
            if self.num_fewshot:
                place = find_file(folder, task.layout.stem, (str(task.shots),)) if folder else None
                if place is None:
                    raise DataError(
                        f"num_fewshot is {self.num_fewshot}, but {folder} has no worked examples for {task.name}.",
                        fix=f"Add {task.layout.stem}_{task.shots}.jsonl, or set num_fewshot=0.",
                    )
                shots = read_questions(*place, task.layout)
            local[task.name] = Local(read_questions(path, split, task.layout), shots)
        return local

    def _say_where(self, local: Mapping[str, Local], plan: Plan) -> None:
        folder, _ = self._found()
        if not local:
            lacks = f" ({folder} does not have them all)" if folder else ""
            note(f"Questions of {self.name}: the hub{lacks}.")
            return
        other = [
            f"{name} ({here.file.split} rows)"
            for name, here in local.items()
            if here.file.split != plan.facts["tasks"][name]["hub_split"]
        ]
        differs = f" Not the split that lm-eval takes from the hub: {', '.join(other)}." if other else ""
        note(f"Questions of {self.name}: {folder}.{differs}")


@dataclass(frozen=True)
class Accuracies:
    """Shares of right answers with intervals, from the records of questions."""

    rows: Sequence[SampleRow]
    retain_model: Sequence[SampleRow] | None
    resamples: int
    seed: int
    unit: str
    better: str

    def accuracy(self, tasks: Sequence[str], field: str = "correct", *, clustered: bool = True) -> Value:
        """Share of right answers over all questions of some tasks.

        Every question counts the same, so that tasks weigh by their size. Questions that depend on each other
        (one passage, one subject) are resampled together; independent ones have Wilson's interval.
        """
        asked = [row for row in self.rows if row["set"] in tasks]
        present = [row for row in asked if row[field] is not None]
        if not present:
            return Value.missing("a longer context: every prompt is longer than the model's" if asked else "questions")
        values = np.array([row[field] for row in present], dtype=np.float64)
        groups = [row["group"] for row in present] if clustered else []
        if any(groups):
            interval = mean_interval(values, groups, self.resamples, self.seed)
            how = f"bootstrap over {len(set(groups))} groups of dependent questions"
        else:
            interval, how = wilson(int(values.sum()), len(values)), "Wilson interval"
        right = "the likeliest" if field == "correct" else "the likeliest per character"
        return self._value(float(values.mean()), interval, len(asked), present, f"right choice is {right}; {how}")

    def difference(self, tasks: Sequence[str]) -> Value:
        """Accuracy minus the retain model's, over the questions that both were scored on."""
        others = {(row["set"], row["index"]): row["correct"] for row in self.retain_model or ()}
        asked = [row for row in self.rows if row["set"] in tasks]
        present = [
            row for row in asked if row["correct"] is not None and others.get((row["set"], row["index"])) is not None
        ]
        if not present:
            return Value.missing("questions that model and retain model were both scored on")
        values = np.array([float(row["correct"]) - others[row["set"], row["index"]] for row in present])
        groups = [row["group"] or row["index"] for row in present]
        interval = mean_interval(values, groups, self.resamples, self.seed)
        return self._value(
            float(values.mean()), interval, len(asked), present, "accuracy minus the retain model's; paired bootstrap"
        )

    def has_norm(self, tasks: Sequence[str]) -> bool:
        """Whether lm-eval reports an accuracy per character too."""
        return any(row["correct_norm"] is not None for row in self.rows if row["set"] in tasks)

    def _value(
        self, point: float, interval: tuple[float, float] | None, asked: int, present: Sequence[SampleRow], how: str
    ) -> Value:
        low, high = interval or (None, None)
        return Value(
            point=point,
            low=low,
            high=high,
            n=len(present),
            n_missing=asked - len(present),
            how=how,
            unit=self.unit,
            better=self.better,
        )


def validate_names(what: str, values: list[str], options: Sequence[str]) -> list[str]:
    """Check names that a user chose.

    Raises:
        ValueError: A name is unknown (the nearest is named) or stands there twice.
    """
    for value in values:
        if value not in options:
            raise ValueError(f"no {what} is called '{value}'. {nearest(value, options)}")
        if values.count(value) > 1:
            raise ValueError(f"the {what} '{value}' stands there more than once")
    return values


def _facts(local: Local | None) -> dict[str, Any]:
    """What tells local questions apart from others; the path does not."""
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

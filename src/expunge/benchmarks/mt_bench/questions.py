"""Load MT-Bench's questions, right answers and judge prompts from a folder, a file or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from expunge.benchmarks.mt_bench.prompts import OWN_PROMPTS, JudgePrompt, read_judge_prompts
from expunge.config.recipe import Source
from expunge.data.sources.readers import local_path, read_records
from expunge.errors import DataError
from expunge.rundir import fingerprint
from expunge.services.chat import Messages

TEMPERATURE = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""Temperature of answers by category, as in FastChat."""
OTHER_TEMPERATURE = 0.7
WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose judge prompt contains the right answer, if there is one."""

PUBLISHED = "c2486d684393"
"""Fingerprint of FastChat's 80 questions, right answers by GPT-4 and judge prompts."""


@dataclass(frozen=True)
class Question:
    """A conversation of two questions."""

    id: str
    category: str
    turns: tuple[str, str]
    references: tuple[str, ...] = ()
    """Right answers to both turns, or empty."""

    @property
    def temperature(self) -> float:
        """Temperature at which the question is answered."""
        return TEMPERATURE.get(self.category, OTHER_TEMPERATURE)


@dataclass(frozen=True)
class Material:
    """Questions and judge prompts."""

    questions: tuple[Question, ...]
    prompts: Mapping[str, JudgePrompt]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of questions, right answers and judge prompts."""
        questions = [[q.id, q.category, q.turns, q.references] for q in self.questions]
        return fingerprint([questions, {name: [p.system, p.template] for name, p in self.prompts.items()}])

    def to_judge(self, question: Question, answers: tuple[str, ...]) -> Messages:
        """Return the judge's prompt about the last of one or two answers."""
        name = "single-math-v1" if question.references else "single-v1"
        values = {f"ref_answer_{turn}": text for turn, text in enumerate(question.references, 1)}
        if len(answers) == 1:
            values |= {"question": question.turns[0], "answer": answers[0]}
            return self.prompts[name].messages(values)
        for turn, (text, answer) in enumerate(zip(question.turns, answers, strict=True), 1):
            values |= {f"question_{turn}": text, f"answer_{turn}": answer}
        return self.prompts[f"{name}-multi-turn"].messages(values)


def load_material(path: str, judge_prompts: str | None = None, per_category: int | None = None) -> Material:
    """Load questions, right answers and prompts.

    Args:
        path: Folder in FastChat's layout (question.jsonl, judge_prompts.jsonl, reference_answer/<model>.jsonl; the
            last two may be missing), a file of questions, or a hub id.
        judge_prompts: File of the judge's prompts, instead of the folder's or this package's.
        per_category: Use only the first questions of each category.

    Raises:
        DataError: A file is missing, or a row is malformed; the message names file and line.
    """
    location = local_path(path)
    folder = location if location is not None and location.is_dir() else None
    questions = _questions(path if folder is None else str(folder / "question.jsonl"))
    if folder is not None:
        references = _right_answers(folder / "reference_answer")
        questions = [replace(q, references=references.get(q.id, q.references)) for q in questions]
    # FastChat's rows have notes on other categories too, which its judge does not see.
    questions = [q if q.category in WITH_REFERENCE else replace(q, references=()) for q in questions]
    if per_category is not None:
        questions = [
            q for i, q in enumerate(questions) if sum(p.category == q.category for p in questions[:i]) < per_category
        ]
    prompts_file = None if folder is None else folder / "judge_prompts.jsonl"
    if judge_prompts is not None:
        prompts = read_judge_prompts(Path(judge_prompts).expanduser())
    else:
        prompts = read_judge_prompts(prompts_file) if prompts_file and prompts_file.is_file() else OWN_PROMPTS
    return Material(tuple(questions), prompts)


def material_files(path: str, judge_prompts: str | None) -> list[str]:
    """Return the local files that `load_material` reads."""
    root = Path(path).expanduser()
    files = [root]
    if root.is_dir():
        files = [root / "question.jsonl", root / "judge_prompts.jsonl", *sorted(root.glob("reference_answer/*.jsonl"))]
    prompts = [] if judge_prompts is None else [str(Path(judge_prompts).expanduser())]
    return [*(str(file) for file in files if file.is_file()), *prompts]


def _questions(path: str) -> list[Question]:
    questions: dict[str, Question] = {}
    for where, record in read_records(Source(path=path)):
        question = _parse_question(where, record)
        if question.id in questions:
            raise DataError(f"{where}: duplicate question id {question.id}.", fix="Give every question its own id.")
        questions[question.id] = question
    if not questions:
        raise DataError(f"{path} contains no questions.", fix="Add at least one.")
    return list(questions.values())


def _parse_question(where: str, record: Mapping[str, Any]) -> Question:
    id, turns = record.get("question_id", record.get("prompt_id")), record.get("turns", record.get("prompt"))
    category, references = record.get("category"), record.get("reference")
    if id is None or not isinstance(category, str):
        raise DataError(f"{where} needs a question_id and a category.", allowed=f"Its columns: {', '.join(record)}.")
    if not _texts(turns):
        raise DataError(
            f"{where}: a question needs two turns.", fix='Write them as "turns": ["first question", "second question"].'
        )
    return Question(str(id), category, (turns[0], turns[1]), tuple(references) if _texts(references) else ())


def _right_answers(folder: Path) -> dict[str, tuple[str, ...]]:
    files = sorted(folder.glob("*.jsonl"))
    if len(files) > 1:
        raise DataError(f"{folder} contains right answers by {len(files)} models.", fix="Keep one of the files.")
    answers: dict[str, tuple[str, ...]] = {}
    for where, record in (row for file in files for row in read_records(Source(path=str(file)))):
        try:
            turns = record["choices"][0]["turns"]
            id = str(record["question_id"])
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{where} is not an answer in FastChat's format: it has no choices[0].turns.") from error
        if not _texts(turns):
            raise DataError(f"{where}: the right answer to {id} needs two turns.")
        answers[id] = tuple(turns)
    return answers


def _texts(value: Any) -> TypeGuard[list[str]]:
    """Return whether the value is a list of two texts, one per turn."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) and v.strip() for v in value)

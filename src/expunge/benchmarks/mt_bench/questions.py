"""MT-Bench's questions, right answers to some, and the judge's prompts: from a folder, a file or the hub."""

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
"""Temperature of answers by category, as FastChat has it."""
OTHER_TEMPERATURE = 0.7
WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose judge is told a right answer, where there is one."""

PUBLISHED = "c2486d684393"
"""Fingerprint of the 80 questions, the right answers by GPT-4 and the judge's prompts in FastChat."""


@dataclass(frozen=True)
class Question:
    """A conversation of two questions."""

    id: str
    category: str
    turns: tuple[str, str]
    references: tuple[str, ...] = ()
    """Right answers to both, or nothing."""

    @property
    def temperature(self) -> float:
        """Temperature at which it is answered."""
        return TEMPERATURE.get(self.category, OTHER_TEMPERATURE)


@dataclass(frozen=True)
class Material:
    """Everything that MT-Bench brings along."""

    questions: tuple[Question, ...]
    prompts: Mapping[str, JudgePrompt]

    @property
    def fingerprint(self) -> str:
        """Equal for equal questions, right answers and judge's prompts."""
        asked = [[q.id, q.category, q.turns, q.references] for q in self.questions]
        return fingerprint([asked, {name: [p.system, p.template] for name, p in self.prompts.items()}])

    def to_judge(self, question: Question, answers: tuple[str, ...]) -> Messages:
        """What the judge is asked about the last of one or two answers."""
        name = "single-math-v1" if question.references else "single-v1"
        values = {f"ref_answer_{turn}": text for turn, text in enumerate(question.references, 1)}
        if len(answers) == 1:
            values |= {"question": question.turns[0], "answer": answers[0]}
            return self.prompts[name].messages(values)
        for turn, (asked, answer) in enumerate(zip(question.turns, answers, strict=True), 1):
            values |= {f"question_{turn}": asked, f"answer_{turn}": answer}
        return self.prompts[f"{name}-multi-turn"].messages(values)


def load_material(path: str, judge_prompts: str | None = None, per_category: int | None = None) -> Material:
    """Questions, right answers and prompts.

    Args:
        path: Folder in FastChat's layout (question.jsonl, judge_prompts.jsonl, reference_answer/<model>.jsonl; the
            last two may be missing), a file of questions, or a hub id.
        judge_prompts: File of the judge's prompts, instead of the folder's or ours.
        per_category: Use only the first questions of each category.

    Raises:
        DataError: A file is missing, or a row is malformed; file and line are named.
    """
    place = local_path(path)
    folder = place if place is not None and place.is_dir() else None
    questions = _questions(path if folder is None else str(folder / "question.jsonl"))
    if folder is not None:
        right = _right_answers(folder / "reference_answer")
        questions = [replace(q, references=right.get(q.id, q.references)) for q in questions]
    # FastChat's own rows carry notes on further categories, which its judge is not shown.
    questions = [q if q.category in WITH_REFERENCE else replace(q, references=()) for q in questions]
    if per_category is not None:
        questions = [
            q for i, q in enumerate(questions) if sum(p.category == q.category for p in questions[:i]) < per_category
        ]
    beside = None if folder is None else folder / "judge_prompts.jsonl"
    if judge_prompts is not None:
        prompts = read_judge_prompts(Path(judge_prompts).expanduser())
    else:
        prompts = read_judge_prompts(beside) if beside is not None and beside.is_file() else OWN_PROMPTS
    return Material(tuple(questions), prompts)


def material_files(path: str, judge_prompts: str | None) -> list[str]:
    """Local files that `load_material` reads."""
    place = Path(path).expanduser()
    files = [place / "question.jsonl", place / "judge_prompts.jsonl", *sorted(place.glob("reference_answer/*.jsonl"))]
    found = [str(file) for file in (files if place.is_dir() else [place]) if file.is_file()]
    return [*found, *([] if judge_prompts is None else [str(Path(judge_prompts).expanduser())])]


def _questions(path: str) -> list[Question]:
    found: dict[str, Question] = {}
    for where, record in read_records(Source(path=path)):
        question = _question(where, record)
        if question.id in found:
            raise DataError(f"{where}: a question before it has the id {question.id} too.", fix="Give it another one.")
        found[question.id] = question
    if not found:
        raise DataError(f"{path} holds no questions.", fix="Give at least one.")
    return list(found.values())


def _question(where: str, record: Mapping[str, Any]) -> Question:
    id, turns = record.get("question_id", record.get("prompt_id")), record.get("turns", record.get("prompt"))
    category, references = record.get("category"), record.get("reference")
    if id is None or not isinstance(category, str):
        raise DataError(f"{where} needs a question_id and a category.", allowed=f"Its columns: {', '.join(record)}.")
    if not _texts(turns):
        raise DataError(
            f"{where}: a question has two turns.", fix='Write them as "turns": ["first question", "second question"].'
        )
    return Question(str(id), category, (turns[0], turns[1]), tuple(references) if _texts(references) else ())


def _right_answers(folder: Path) -> dict[str, tuple[str, ...]]:
    files = sorted(folder.glob("*.jsonl"))
    if len(files) > 1:
        raise DataError(f"{folder} holds right answers by {len(files)} models.", fix="Keep one of the files.")
    found: dict[str, tuple[str, ...]] = {}
    for where, record in (row for file in files for row in read_records(Source(path=str(file)))):
        try:
            turns = record["choices"][0]["turns"]
            id = str(record["question_id"])
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{where} is no answer in FastChat's format: it has no choices[0].turns.") from error
        if not _texts(turns):
            raise DataError(f"{where}: the right answer to {id} needs two turns.")
        found[id] = tuple(turns)
    return found


def _texts(value: Any) -> TypeGuard[list[str]]:
    """Whether it is one text per turn."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) and v.strip() for v in value)

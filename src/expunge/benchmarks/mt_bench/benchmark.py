"""MT-Bench: is the model still a good assistant? 80 conversations of two questions, graded by a judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from expunge.benchmarks.base import Benchmark, GenerationRequest, Headlines, Plan, SampleRow
from expunge.benchmarks.mt_bench.judge import Judge, judged
from expunge.benchmarks.mt_bench.questions import (
    PUBLISHED,
    WITH_REFERENCE,
    Material,
    Question,
    load_material,
    material_files,
)
from expunge.benchmarks.shared.mean import mean_value
from expunge.console import note
from expunge.data.sets import Row, RowSet, Sets
from expunge.records import Value
from expunge.rundir import fingerprint

if TYPE_CHECKING:
    from expunge.probes.session import Session

QUESTIONS = "questions"
TURNS = ("turn_1", "turn_2")
HEADLINE, OTHER_JUDGE = "mt_bench", "mt_bench_other_judge"

NEEDS_JUDGE = (
    "a judge: judge_model.url and judge_model.model of a service with OpenAI's protocol, or judge_model.model of a "
    "local model; the answers are written, but not judged"
)
_PUBLISHED_JUDGES = {"gpt-4", "gpt-4-0314", "gpt-4-0613"}
_RATINGS = (re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]"), re.compile(r"\[(\d+(?:\.\d+)?)\]"))


class MtBench(Benchmark):
    """MT-Bench with single-answer grading: the mean of a judge's ratings from 1 to 10 over both turns of each question.

    Ratings of different judges do not compare. The headline is called mt_bench only where the judge is the published
    one, GPT-4 of OpenAI with FastChat's questions and prompts, and mt_bench_other_judge elsewhere, so that no
    published number ever stands beside it. Without a judge the answers are written and nothing is rated.
    """

    paper: ClassVar[str] = "Zheng et al. 2023, arXiv:2306.05685"
    needs_sets: ClassVar[bool] = False

    path: str = "HuggingFaceH4/mt_bench_prompts"
    """Folder in FastChat's layout (question.jsonl, judge_prompts.jsonl, reference_answer/gpt-4.jsonl), a file of
    questions, or a hub id."""
    judge_prompts: str | None = None
    """File of the judge's prompts; by default the folder's, or where it has none, prompts of our own."""
    judge_model: Judge | None = None
    """Who rates the answers, such as {url: 'http://localhost:8000/v1', model: my-judge}."""
    per_category: int | None = Field(default=None, ge=1)
    """Ask only the first questions of each category, to try things out (MT-Bench: all 10)."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Longest answer."""
    seed: int = Field(default=0, ge=0)
    """Seed of answers that are drawn: those of categories with a temperature above 0."""

    def files(self) -> list[str]:
        """Local files of questions, right answers and prompts."""
        return [*super().files(), *material_files(self.path, self.judge_prompts)]

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "id", "group", "temperature", "question"),
            *("answer", "rating", "judgment", "published"),
        )

    def plan(self, sets: Sets) -> Plan:
        """The first questions; the second ones follow the answers. `sets` are not looked at.

        Raises:
            DataError: Questions, right answers or prompts are missing or malformed.
        """
        material = self._material()
        rows = tuple(Row(q.id, q.turns[0], q.turns[1], group=q.id, topic=q.category) for q in material.questions)
        lacking = [q.id for q in material.questions if q.category in WITH_REFERENCE and not q.references]
        return Plan(
            sets={QUESTIONS: RowSet(QUESTIONS, rows)},
            generate=[self._request(i, 0, q, ()) for i, q in enumerate(material.questions)],
            facts={"material": material.fingerprint, "without_right_answer": lacking},
        )

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """Ask both questions, the second one after the first answer, and have the answers judged."""
        material = self._material()
        questions = material.questions
        first = session.generate(plan.generate)
        follow = [
            self._request(i, 1, q, ((q.turns[0], first[QUESTIONS, i, TURNS[0]]),))
            for i, q in enumerate(questions)
            if (QUESTIONS, i, TURNS[0]) in first
        ]
        answers = {**first, **session.generate(follow)}
        rows = [self._row(i, turn, q, answers) for i, q in enumerate(questions) for turn in (0, 1)]
        if self.judge_model is None:
            note("MT-Bench: not judged, because no judge is set (judge_model: {url: ..., model: ...}).")
            return rows
        return self._judged(self.judge_model, rows, material, session)

    def headlines(
        self, rows: Sequence[SampleRow], reference: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Mean rating over all turns; the same by turn and by category. Intervals draw whole conversations."""
        if self.judge_model is None:
            return Headlines({HEADLINE: Value.missing(NEEDS_JUDGE)})
        judge = self.judge_model.model

        def mean(own: Sequence[SampleRow], what: str) -> Value:
            return mean_value(
                [row["rating"] for row in own],
                [row["group"] for row in own],
                how=f"mean rating from 1 to 10 of {what} by the judge {judge}",
                better="higher",
                needs=f"ratings of {what}: no reply of the judge {judge} holds a rating such as [[5]]",
                resamples=resamples,
                seed=seed,
            )

        parts = {f"{turn}/rating": [row for row in rows if row["set"] == turn] for turn in TURNS}
        for category in dict.fromkeys(_category(row) for row in rows):
            parts[f"{category}/rating"] = [row for row in rows if _category(row) == category]
        name = HEADLINE if all(row["published"] for row in rows) else OTHER_JUDGE
        return Headlines(
            {name: mean(rows, "all turns")},
            {key: mean(own, key.removesuffix("/rating").replace("_", " ")) for key, own in parts.items()},
        )

    def _material(self) -> Material:
        return load_material(self.path, self.judge_prompts, self.per_category)

    def _request(
        self, index: int, turn: int, question: Question, turns: tuple[tuple[str, str], ...]
    ) -> GenerationRequest:
        return GenerationRequest(
            QUESTIONS,
            index,
            question.turns[turn],
            self.max_new_tokens,
            what=TURNS[turn],
            turns=turns,
            temperature=question.temperature,
            seed=int(fingerprint([self.seed, question.id, turn]), 16),
        )

    def _row(self, index: int, turn: int, question: Question, answers: dict[Any, str]) -> SampleRow:
        return {
            "set": TURNS[turn],
            "index": index,
            "id": f"{question.category}/{question.id}/{turn + 1}",
            "group": question.id,
            "temperature": question.temperature,
            "question": question.turns[turn],
            "answer": answers.get((QUESTIONS, index, TURNS[turn])),
            "rating": None,
            "judgment": None,
            "published": False,
        }

    def _judged(self, judge: Judge, rows: list[SampleRow], material: Material, session: Session) -> list[SampleRow]:
        """The rows with ratings; a turn without an answer, and a reply without a rating, has none."""
        asked = [row for row in rows if row["answer"] is not None]
        by_turn = {(row["set"], row["index"]): row["answer"] for row in asked}
        prompts = []
        for row in asked:
            turns = TURNS[: TURNS.index(row["set"]) + 1]
            answers = tuple(by_turn[turn, row["index"]] for turn in turns)
            prompts.append(material.to_judge(material.questions[row["index"]], answers))
        published = _is_published(judge, material)
        for row, reply in zip(asked, judged(judge, prompts, session), strict=True):
            row.update(judgment=reply, rating=None if reply is None else parse_rating(reply))
        unrated = sum(row["rating"] is None for row in rows)
        if unrated:
            note(f"MT-Bench: {unrated} of {len(rows)} turns have no rating and are not scored.")
        return [{**row, "published": published} for row in rows]


def _category(row: SampleRow) -> str:
    return str(row["id"]).rsplit("/", 2)[0]


def parse_rating(reply: str) -> float | None:
    """The rating in a judge's reply: the first number in [[ ]], else in [ ]; None without one from 1 to 10.

    Example:
        >>> parse_rating("It is short and right. Rating: [[8]]")
        8.0
    """
    found = next((match for pattern in _RATINGS if (match := pattern.search(reply))), None)
    rating = float(found[1]) if found else 0.0
    return rating if 1 <= rating <= 10 else None


def _is_published(judge: Judge, material: Material) -> bool:
    return (
        judge.url is not None
        and judge.url.startswith("https://api.openai.com/")
        and judge.model in _PUBLISHED_JUDGES
        and judge.temperature == 0
        and material.fingerprint == PUBLISHED
    )

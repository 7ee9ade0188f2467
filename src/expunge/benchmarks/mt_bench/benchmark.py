"""MT-Bench: 80 conversations of two questions, rated by a judge model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from expunge.benchmarks.base import (
    Benchmark,
    GenerationRequest,
    Headlines,
    Measurement,
    Plan,
    SampleRow,
)
from expunge.benchmarks.mt_bench.judge import Judge, judge_replies
from expunge.benchmarks.mt_bench.questions import (
    PUBLISHED,
    WITH_REFERENCE,
    Material,
    Question,
    load_material,
    material_files,
)
from expunge.benchmarks.shared.mean import MeanSpec, mean_value
from expunge.benchmarks.shared.paired import NEEDS_TARGET, before_and_after, judge_loss, loss_rule, paired_difference
from expunge.console import note
from expunge.data.sets import Row, RowSet, Sets
from expunge.records import Judgement, Label, Value
from expunge.rundir import fingerprint

if TYPE_CHECKING:
    from expunge.probes.session import Session

QUESTIONS = "questions"
TURNS = ("turn_1", "turn_2")
HEADLINE, OTHER_JUDGE = "mt_bench", "mt_bench_other_judge"

NEEDS_JUDGE = (
    "a judge: judge_model.url and judge_model.model of a service with OpenAI's protocol, or judge_model.model of a "
    "local model; the answers were generated, but not judged"
)
_PUBLISHED_JUDGES = {"gpt-4", "gpt-4-0314", "gpt-4-0613"}
_RATINGS = (re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]"), re.compile(r"\[(\d+(?:\.\d+)?)\]"))


class MtBench(Benchmark):
    """MT-Bench with single-answer grading: mean of a judge's ratings from 1 to 10 over both turns of each question.

    Ratings of different judges are not comparable. The headline is mt_bench only with the published judge, OpenAI's
    GPT-4 with FastChat's questions and prompts, and mt_bench_other_judge otherwise, so that it is never listed beside
    published numbers. Without a judge the answers are generated and not rated.
    """

    title: ClassVar[str] = "MT-Bench"
    paper: ClassVar[str] = "Zheng et al. 2023, arXiv:2306.05685"
    needs_sets: ClassVar[bool] = False
    judgement_settings: ClassVar[frozenset[str]] = frozenset({"tolerance"})

    path: str = "HuggingFaceH4/mt_bench_prompts"
    """Folder in FastChat's layout (question.jsonl, judge_prompts.jsonl, reference_answer/gpt-4.jsonl), a file of
    questions, or a hub id."""
    judge_prompts: str | None = None
    """File of the judge's prompts; by default the folder's, or if it has none, prompts of this package."""
    judge_model: Judge | None = None
    """Model that rates the answers, such as {url: 'http://localhost:8000/v1', model: my-judge}."""
    per_category: int | None = Field(default=None, ge=1)
    """Ask only the first questions of each category, for a quick test (MT-Bench: all 10)."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Longest answer."""
    seed: int = Field(default=0, ge=0)
    """Seed of sampled answers: those of categories with a temperature above 0."""
    tolerance: float = Field(default=0.5, ge=0, le=9)
    """Judgement: largest loss of the mean rating against the target that counts as utility kept."""

    def files(self) -> list[str]:
        """Return the local files of questions, right answers and prompts."""
        return [*super().files(), *material_files(self.path, self.judge_prompts)]

    def labels(self) -> dict[str, Label]:
        """Return the presentation of the mean rating, under both names if the judge may be the published one."""
        label = Label(
            title="MT-Bench rating", explain="mean rating by a judge model, from 1 to 10", unit="", better="higher"
        )
        if self.judge_model is None:
            return {HEADLINE: label}
        other_judge = label.model_copy(update={"title": f"MT-Bench rating by {self.judge_model.model}"})
        published = {HEADLINE: label} if _is_published_judge(self.judge_model) else {}
        return {**published, OTHER_JUDGE: other_judge}

    def metric_labels(self) -> dict[str, Label]:
        """Return the presentation of ratings by turn and category."""
        return {"rating": Label(title="rating", explain="mean rating from 1 to 10", better="higher")}

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude whether utility was kept from the paired loss of ratings against the target."""
        after = self._rating(unlearned)
        loss = Value.missing(NEEDS_TARGET)
        if after.point is None:
            loss = Value.missing(after.needs)
        elif target is not None:
            loss = paired_difference([(target.rows, unlearned.rows)], "rating", seed)
            # Intervals resample conversations, so conversations and not turns determine their width.
            loss = loss.model_copy(update={"n": int(loss.extra.get("groups", 0))})
        utility, reasons = judge_loss(loss, self.tolerance, "MT-Bench rating", "conversations")
        return Judgement(
            benchmark=self.key,
            title=self.title,
            utility=utility,
            metrics=before_and_after("MT-Bench rating", None if target is None else self._rating(target), after),
            reasons=reasons,
            rules=[loss_rule("MT-Bench rating", self.tolerance, "by turn, resampled by conversation")],
            limits=["Ratings are a judge model's opinion of one answer per question."],
        )

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "id", "group", "temperature", "question"),
            *("answer", "rating", "judgment", "published"),
        )

    def plan(self, sets: Sets) -> Plan:
        """Ask the first questions; the second ones depend on the answers. `sets` are not used.

        Raises:
            DataError: Questions, right answers or prompts are missing or malformed.
        """
        material = self._material()
        rows = tuple(Row(q.id, q.turns[0], q.turns[1], group=q.id, topic=q.category) for q in material.questions)
        without_right_answer = [q.id for q in material.questions if q.category in WITH_REFERENCE and not q.references]
        return Plan(
            sets={QUESTIONS: RowSet(QUESTIONS, rows)},
            generate=[self._request(i, 0, q, ()) for i, q in enumerate(material.questions)],
            facts={"material": material.fingerprint, "without_right_answer": without_right_answer},
        )

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """Ask both questions, the second one after the first answer, and rate the answers with the judge."""
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
        """Compute the mean rating over all turns, by turn and by category; conversations are groups."""
        if self.judge_model is None:
            return Headlines({HEADLINE: Value.missing(NEEDS_JUDGE)})
        judge = self.judge_model.model

        def mean(rated: Sequence[SampleRow], turns: str) -> Value:
            return mean_value(
                [row["rating"] for row in rated],
                [row["group"] for row in rated],
                MeanSpec(
                    how=f"mean rating from 1 to 10 of {turns} by the judge {judge}",
                    better="higher",
                    needs=f"ratings of {turns}: no reply of the judge {judge} contains a rating such as [[5]]",
                ),
                resamples=resamples,
                seed=seed,
            )

        subsets = {f"{turn}/rating": [row for row in rows if row["set"] == turn] for turn in TURNS}
        for category in dict.fromkeys(_category(row) for row in rows):
            subsets[f"{category}/rating"] = [row for row in rows if _category(row) == category]
        name = HEADLINE if all(row["published"] for row in rows) else OTHER_JUDGE
        return Headlines(
            {name: mean(rows, "all turns")},
            {key: mean(subset, key.removesuffix("/rating").replace("_", " ")) for key, subset in subsets.items()},
        )

    def _rating(self, measurement: Measurement) -> Value:
        """Return the mean rating, under the name that this measurement reports."""
        name = OTHER_JUDGE if OTHER_JUDGE in measurement.result.headlines else HEADLINE
        return measurement.value(name)

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
        """Return the rows with ratings; turns without an answer, and replies without a rating, have none."""
        answered = [row for row in rows if row["answer"] is not None]
        by_turn = {(row["set"], row["index"]): row["answer"] for row in answered}
        prompts = []
        for row in answered:
            turns = TURNS[: TURNS.index(row["set"]) + 1]
            answers = tuple(by_turn[turn, row["index"]] for turn in turns)
            prompts.append(material.to_judge(material.questions[row["index"]], answers))
        published = _is_published_judge(judge) and material.fingerprint == PUBLISHED
        for row, reply in zip(answered, judge_replies(judge, prompts, session), strict=True):
            row.update(judgment=reply, rating=None if reply is None else parse_rating(reply))
        unrated = sum(row["rating"] is None for row in rows)
        if unrated:
            note(f"MT-Bench: {unrated} of {len(rows)} turns have no rating and are left out.")
        return [{**row, "published": published} for row in rows]


def _category(row: SampleRow) -> str:
    return str(row["id"]).rsplit("/", 2)[0]


def parse_rating(reply: str) -> float | None:
    """Return the rating in a judge's reply: the first number in [[ ]], else in [ ]; None unless from 1 to 10.

    Example:
        >>> parse_rating("It is short and right. Rating: [[8]]")
        8.0
    """
    match = next((match for pattern in _RATINGS if (match := pattern.search(reply))), None)
    rating = float(match[1]) if match else 0.0
    return rating if 1 <= rating <= 10 else None


def _is_published_judge(judge: Judge) -> bool:
    return (
        judge.url is not None
        and judge.url.startswith("https://api.openai.com/")
        and judge.model in _PUBLISHED_JUDGES
        and judge.temperature == 0
    )

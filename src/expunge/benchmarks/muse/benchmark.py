"""MUSE: does a model still recite, know or give away a corpus, and does it keep what it knew besides?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from expunge.benchmarks.base import (
    Benchmark,
    GenerationRequest,
    Headlines,
    Key,
    Plan,
    SampleRow,
    ScoreRequest,
    TokenScores,
)
from expunge.benchmarks.muse import rows as muse_rows
from expunge.benchmarks.shared.mean import mean_value
from expunge.config.defaults import changed
from expunge.data.muse import load_muse, split_files
from expunge.data.sets import RowSet, Sets
from expunge.metrics.base import Better
from expunge.metrics.membership import membership_min_k
from expunge.metrics.memorization import knowledge_memorization, verbatim_memorization
from expunge.metrics.privleak import privleak_value
from expunge.metrics.rouge import word_rule
from expunge.metrics.separation import Scored, separation_values
from expunge.records import Value
from expunge.rundir import fingerprint

if TYPE_CHECKING:
    from expunge.probes.session import Session

Part = Literal["verbmem", "knowmem", "privleak"]

VERBMEM, FORGET_QA, RETAIN_QA = "verbmem/forget", "knowmem/forget_qa", "knowmem/retain_qa"
FORGET, HOLDOUT = "privleak/forget", "privleak/holdout"
QUESTIONS = (FORGET_QA, RETAIN_QA)

RETRAIN_AUC = {"news": 0.4772, "books": 0.5393}
"""MUSE's AUC (forget rows look newer than holdout rows) of its retrained Llama-2-7B, by corpus."""

MIN_K = 0.4


class Muse(Benchmark):
    """MUSE's evaluation: verbatim and knowledge memorisation, privacy leakage, utility.

    verbmem_forget: ROUGE-L F1 between greedy continuations of forget texts and the texts. knowmem_forget and
    knowmem_retain: ROUGE-L F1 of answers to questions, after examples of such questions. privleak: change of the AUC
    of the Min-40% score, forget against holdout, against a model that was trained without the forget set. All in
    percent, as MUSE prints them. Brings its data along; which split is unlearnt is the recipe's affair, and so are
    scalability and sustainability, which are several runs (see `expunge.data.muse`).
    """

    paper: ClassVar[str] = "Shi et al. 2024, arXiv:2407.06460"
    needs_sets: ClassVar[bool] = False

    path: str = "muse-bench/MUSE-News"
    """Hub id (the other corpus is muse-bench/MUSE-Books), or a folder in the same layout."""
    revision: str | None = None
    """Hub only: commit, tag or branch."""
    parts: list[Part] = Field(default=["verbmem", "knowmem", "privleak"], min_length=1)
    """What is measured; each needs its own subset of the data."""
    limit: int | None = Field(default=None, ge=1)
    """Measure only the first rows of each set (MUSE: all, which are 100)."""
    verbmem_tokens: int = Field(default=128, ge=1)
    """Length of continuations, and of the text that they are compared with."""
    knowmem_tokens: int = Field(default=32, ge=1)
    """Length of answers."""
    num_examples: int = Field(default=10, ge=0)
    """At most this many examples before each question, from knowmem/forget_qa_icl and knowmem/retain_qa_icl."""
    stem: bool = False
    """Compare word stems in ROUGE: off in MUSE's code, on in OpenUnlearning."""
    retrain_auc: Literal["news", "books"] | float | None = None
    """Where no retain model is at hand: MUSE's published AUC of its retrained Llama-2-7B on 'news' or 'books', or
    the AUC of your own, in MUSE's direction (1: every forget row looks newer than every holdout row). A published
    one says nothing about another model or other data."""

    @field_validator("retrain_auc", mode="after")
    @classmethod
    def _auc(cls, value: str | float | None) -> str | float | None:
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError("is an AUC above 0 and at most 1, or 'news' or 'books'")
        return value

    @model_validator(mode="after")
    def _no_dead_settings(self) -> Self:
        owned = {"verbmem": ["verbmem_tokens"], "knowmem": ["knowmem_tokens", "num_examples"]}
        for part, names in {**owned, "privleak": ["retrain_auc"]}.items():
            dead = changed(self, *names) if part not in self.parts else []
            if dead:
                raise ValueError(f"{dead[0]} has no effect without the part {part}")
        if self.stem and not {"verbmem", "knowmem"} & set(self.parts):
            raise ValueError("stem has no effect without the parts verbmem and knowmem")
        return self

    def files(self) -> list[str]:
        """The files of a local folder."""
        return [*super().files(), *split_files(self.path)]

    def plan(self, sets: Sets) -> Plan:
        """Continuations and answers to generate, texts to score; `sets` are not looked at.

        Raises:
            DataError: A split is missing or malformed.
        """
        measured: dict[str, RowSet] = {}
        generate: list[GenerationRequest] = []
        facts: dict[str, Any] = {}
        if "verbmem" in self.parts:
            measured[VERBMEM] = self._load(VERBMEM, ("prompt", "gt"))
            generate += [
                GenerationRequest(VERBMEM, i, row.question, self.verbmem_tokens, raw=True)
                for i, row in enumerate(measured[VERBMEM])
            ]
        for name in QUESTIONS if "knowmem" in self.parts else ():
            measured[name] = self._load(name, ("question", "answer"))
            examples = self._examples(f"{name}_icl")
            facts[f"{name}_icl"] = fingerprint(examples)
            generate += [
                GenerationRequest(
                    name, i, f"{examples}Question: {row.question}\nAnswer: ", self.knowmem_tokens, raw=True
                )
                for i, row in enumerate(measured[name])
            ]
        if "privleak" in self.parts:
            measured |= {name: self._load(name, ("", "text")) for name in (FORGET, HOLDOUT)}
        score = [
            ScoreRequest(name, i, "answer", "", row.answer, raw=True)
            for name in (FORGET, HOLDOUT)
            for i, row in enumerate(measured.get(name, ()))
        ]
        return Plan(sets=measured, score=score, generate=generate, facts=facts)

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """As usual; the texts that continuations are compared with are cut to the same number of tokens."""
        if VERBMEM in plan.sets:
            plan = replace(plan, sets={**plan.sets, VERBMEM: self._cut(session, plan.sets[VERBMEM])})
        return super().run(session, plan)

    def rows(self, plan: Plan, scores: Mapping[Key, TokenScores], generations: Mapping[Key, str]) -> list[SampleRow]:
        """One record per row: a ROUGE-L F1 where something was generated, a Min-40% score where a text was scored."""
        found: list[SampleRow] = []
        for name, rows in plan.sets.items():
            generated = [generations.get((name, i, "answer")) for i in range(len(rows))]
            rouge = self._rouge(name, rows, generated)
            for i, row in enumerate(rows):
                scored = scores.get((name, i, "answer"))
                found.append(
                    {
                        "set": name,
                        "index": i,
                        "id": row.id,
                        "group": row.group,
                        "row_hash": fingerprint([row.question, row.answer]),
                        "question": row.question,
                        # Whole texts are long and their scores are all that anyone asks for.
                        "answer": "" if name in (FORGET, HOLDOUT) else row.answer,
                        "generation": generated[i],
                        "rouge_l_f1": rouge.get(i),
                        "min_k": None if scored is None else float(membership_min_k([scored.logp], MIN_K)[0]),
                        "num_tokens": 0 if scored is None else len(scored),
                    }
                )
        return found

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """MUSE's four numbers in percent; without a retain model privleak needs `retrain_auc`.

        Args:
            rows: Rows of this model.
            retain_model: The same rows of a model that was trained without the forget set, or None.
            resamples: Bootstrap resamples; 0 for no intervals.
            seed: Seed of the bootstrap.
        """

        def rouge(name: str, better: Better, what: str) -> Value:
            own = muse_rows.in_set(rows, name)
            generated = [row["answer"] for row in own if row["generation"] is not None]
            return mean_value(
                [None if row["rouge_l_f1"] is None else 100 * row["rouge_l_f1"] for row in own],
                [row["group"] for row in own],
                how=f"mean ROUGE-L F1 of {what}, in percent{word_rule(generated)}",
                better=better,
                needs=f"{what}: "
                + ("no text has a letter or digit" if generated else "every prompt fills the model's context"),
                resamples=resamples,
                seed=seed,
                unit="%",
            )

        numbers: dict[str, Value] = {}
        if "verbmem" in self.parts:
            numbers["verbmem_forget"] = rouge(VERBMEM, "lower", "greedy continuations of forget texts")
        if "knowmem" in self.parts:
            numbers["knowmem_forget"] = rouge(FORGET_QA, "lower", "answers to forget questions")
            numbers["knowmem_retain"] = rouge(RETAIN_QA, "higher", "answers to retain questions")
        if "privleak" not in self.parts:
            return Headlines(numbers)
        forget, holdout = _scored(rows, FORGET), _scored(rows, HOLDOUT)
        numbers["privleak"] = privleak_value(forget, holdout, self._retain_model(retain_model), resamples, seed)
        separated = separation_values(forget, holdout, "Min-40%", resamples, seed)
        return Headlines(numbers, {f"privleak/{name}": value for name, value in separated.items()})

    def check_retain_model(
        self,
        rows: Sequence[SampleRow],
        retain_model: Sequence[SampleRow],
        settings: Mapping[str, Any],
        retain_settings: Mapping[str, Any],
    ) -> None:
        """Refuse a retain model with other texts, or one that reads them in other tokens.

        Raises:
            IncompatibleError: What differs.
        """
        muse_rows.check_retain_model(rows, retain_model, settings, retain_settings, (FORGET, HOLDOUT))

    def read_stored(self, path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
        """Rows and settings of a result of this benchmark (results/*.json of a run).

        Raises:
            DataError: The file is none, or its samples are not beside it.
        """
        return muse_rows.read_stored(path)

    def _load(self, name: str, columns: tuple[str, str]) -> RowSet:
        return load_muse(self.path, name, columns, revision=self.revision, limit=self.limit)

    def _examples(self, name: str) -> str:
        """Text that stands before each question."""
        if not self.num_examples:
            return ""
        columns = ("question", "answer")
        rows = load_muse(self.path, name, columns, revision=self.revision, limit=self.num_examples)
        return "".join(f"Question: {row.question}\nAnswer: {row.answer}\n\n" for row in rows)

    def _cut(self, session: Session, rows: RowSet) -> RowSet:
        def first(text: str) -> str:
            ids = session.template.text_ids(text)
            return session.template.decode(ids[: self.verbmem_tokens])

        return RowSet(rows.name, tuple(replace(row, answer=first(row.answer)) for row in rows))

    def _rouge(self, name: str, rows: RowSet, generated: Sequence[str | None]) -> dict[int, float]:
        """ROUGE-L F1 by index, of the rows that have a generation."""
        texts = {i: text for i, text in enumerate(generated) if text is not None}
        measure = knowledge_memorization if name in QUESTIONS else verbatim_memorization
        values = measure([rows.rows[i].answer for i in texts], list(texts.values()), stem=self.stem)
        # A text without words has no ROUGE.
        return {i: value for i, value in zip(texts, values.tolist(), strict=True) if not math.isnan(value)}

    def _retain_model(self, rows: Sequence[SampleRow] | None) -> tuple[Scored, Scored] | float | None:
        if rows is not None:
            return _scored(rows, FORGET), _scored(rows, HOLDOUT)
        if self.retrain_auc is None:
            return None
        auc = RETRAIN_AUC[self.retrain_auc] if isinstance(self.retrain_auc, str) else self.retrain_auc
        # Ours is high where the forget set looks known.
        return 1 - auc


def _scored(rows: Sequence[SampleRow], name: str) -> Scored:
    own = muse_rows.in_set(rows, name)
    scores = np.array([np.nan if row["min_k"] is None else row["min_k"] for row in own], dtype=np.float64)
    return Scored(scores, [row["group"] for row in own])

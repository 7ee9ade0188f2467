"""MUSE: verbatim and knowledge memorisation of a corpus, privacy leakage, and knowledge to preserve."""

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
    Measurement,
    Plan,
    SampleRow,
    ScoreRequest,
    TokenScores,
)
from expunge.benchmarks.muse import judgement
from expunge.benchmarks.muse.rows import (
    FORGET,
    FORGET_QA,
    HOLDOUT,
    QUESTIONS,
    RETAIN_QA,
    VERBMEM,
    check_same_texts,
    in_set,
    read_stored,
)
from expunge.benchmarks.shared.mean import MeanSpec, mean_value
from expunge.benchmarks.shared.paired import before_and_after
from expunge.config.defaults import changed
from expunge.data.muse import load_muse, split_files
from expunge.data.sets import RowSet, Sets
from expunge.errors import IncompatibleError
from expunge.metrics.base import Better
from expunge.metrics.membership import membership_min_k
from expunge.metrics.memorization import knowledge_memorization, verbatim_memorization
from expunge.metrics.privleak import privleak_value
from expunge.metrics.rouge import word_rule
from expunge.metrics.separation import Scored, separation_values
from expunge.records import Axes, Judgement, Label, Section, Value
from expunge.rundir import fingerprint

if TYPE_CHECKING:
    from expunge.probes.session import Session

Part = Literal["verbmem", "knowmem", "privleak"]

RETRAIN_AUC = {"news": 0.4772, "books": 0.5393}
"""MUSE's AUC (forget rows look newer than holdout rows) of its retrained Llama-2-7B, by corpus."""

MIN_K = 0.4


class Muse(Benchmark):
    """MUSE's evaluation: verbatim and knowledge memorisation, privacy leakage, utility.

    verbmem_forget: ROUGE-L F1 between greedy continuations of forget texts and the texts. knowmem_forget and
    knowmem_retain: ROUGE-L F1 of answers to questions, after examples of such questions. privleak: change of the AUC
    of the Min-40% score, forget against holdout, relative to a model that was trained without the forget set. All in
    percent, as MUSE reports them. The benchmark brings its own data; the recipe determines which split is unlearned.
    Scalability and sustainability take several runs (see `expunge.data.muse`).
    """

    title: ClassVar[str] = "MUSE"
    paper: ClassVar[str] = "Shi et al. 2024, arXiv:2407.06460"
    needs_sets: ClassVar[bool] = False
    judgement_settings: ClassVar[frozenset[str]] = frozenset({"memorization_margin", "privleak_limit", "tolerance"})

    path: str = "muse-bench/MUSE-News"
    """Hub id (the other corpus is muse-bench/MUSE-Books), or a folder in the same layout."""
    revision: str | None = None
    """Hub only: commit, tag or branch."""
    parts: list[Part] = Field(default=["verbmem", "knowmem", "privleak"], min_length=1)
    """Parts to measure; each needs its subset of the data."""
    limit: int | None = Field(default=None, ge=1)
    """Measure only the first rows of each set (MUSE: all, which are 100)."""
    verbmem_tokens: int = Field(default=128, ge=1)
    """Length of continuations, and of the texts that they are compared with. MUSE's code counts the start token of a
    text, so that its texts have 127 further tokens."""
    knowmem_tokens: int = Field(default=32, ge=1)
    """Length of answers."""
    num_examples: int = Field(default=10, ge=0)
    """At most this many examples before each question, from knowmem/forget_qa_icl and knowmem/retain_qa_icl."""
    stem: bool = False
    """Compare word stems in ROUGE: off in MUSE's code, on in OpenUnlearning."""
    retrain_auc: Literal["news", "books"] | float | None = None
    """Without a retain model: MUSE's published AUC of its retrained Llama-2-7B on 'news' or 'books', or a number for
    your own, in MUSE's direction (1: every forget row looks newer than every holdout row). A published AUC does not
    apply to another model or other data."""
    memorization_margin: float = Field(default=5.0, ge=0, le=100)
    """Judgement: largest excess of ROUGE-L F1 on forget texts and questions over the retain model's, in points."""
    privleak_limit: float = Field(default=10.0, gt=0)
    """Judgement: largest distance of PrivLeak from 0, in percent."""
    tolerance: float = Field(default=5.0, ge=0, le=100)
    """Judgement: largest loss of ROUGE-L F1 on retain questions that counts as utility kept, in points."""

    @field_validator("retrain_auc", mode="after")
    @classmethod
    def _auc(cls, value: str | float | None) -> str | float | None:
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError("is an AUC above 0 and at most 1, or 'news' or 'books'")
        return value

    @model_validator(mode="after")
    def _no_dead_settings(self) -> Self:
        settings_of = {
            "verbmem": ["verbmem_tokens"],
            "knowmem": ["knowmem_tokens", "num_examples", "tolerance"],
            "privleak": ["retrain_auc", "privleak_limit"],
        }
        for part, names in settings_of.items():
            dead = changed(self, *names) if part not in self.parts else []
            if dead:
                raise ValueError(f"{dead[0]} has no effect without the part {part}")
        dead = changed(self, "stem", "memorization_margin")
        if dead and not {"verbmem", "knowmem"} & set(self.parts):
            raise ValueError(f"{dead[0]} has no effect without the parts verbmem and knowmem")
        return self

    def labels(self) -> dict[str, Label]:
        """Return the presentation of the headlines of the measured parts."""
        by_part = {
            "verbmem": {
                "verbmem_forget": Label(
                    title="Verbatim memorisation",
                    explain="ROUGE-L F1 of continued forget texts",
                    unit="%",
                    better="lower",
                )
            },
            "knowmem": {
                "knowmem_forget": Label(
                    title="Knowledge of the forget set",
                    explain="ROUGE-L F1 of answers to forget questions",
                    unit="%",
                    better="lower",
                ),
                "knowmem_retain": Label(
                    title="Knowledge of the retain set",
                    explain="ROUGE-L F1 of answers to retain questions",
                    unit="%",
                    better="higher",
                ),
            },
            "privleak": {
                "privleak": Label(
                    title="PrivLeak",
                    explain="change of the membership AUC against the retain model; 0 is right",
                    unit="%",
                    better="retain",
                    needs_retain_model=self.retrain_auc is None,
                )
            },
        }
        return {name: label for part, labels in by_part.items() if part in self.parts for name, label in labels.items()}

    def metric_labels(self) -> dict[str, Label]:
        """Return the presentation of the membership metrics."""
        return {
            "auc": Label(
                title="membership AUC",
                explain="chance that a forget text looks better known than a holdout text; 0.5 if they look alike",
                better="retain",
            ),
            "tpr_at_1_fpr": Label(
                title="membership TPR at 1% FPR",
                explain="share of forget texts identified while at most 1% of holdout texts are accused",
                better="lower",
            ),
        }

    def axes(self) -> Axes | None:
        """Return knowledge of the forget set against knowledge of the retain set; None if they are not measured."""
        return Axes(forget="knowmem_forget", utility="knowmem_retain") if "knowmem" in self.parts else None

    def sections(self) -> list[Section]:
        """Return the continuations of forget texts and the answers to forget and retain questions."""
        sections = []
        if "verbmem" in self.parts:
            sections.append(
                Section(
                    kind="answers",
                    title="Continuations of forget texts",
                    lead="Beginnings of forget texts that each model continues, highest remaining ROUGE-L first. "
                    "Marked words are specific to the true continuation and are not in the beginning.",
                    set=VERBMEM,
                    score="rouge_l_f1",
                    score_title="ROUGE-L F1",
                )
            )
        if "knowmem" in self.parts:
            sections += [
                Section(
                    kind="answers",
                    title="Answers to forget questions",
                    lead="The forget questions, highest remaining ROUGE-L first. Marked words are specific to the true "
                    "answer, are not in the question, and are still in the unlearned model's answer.",
                    set=FORGET_QA,
                    score="rouge_l_f1",
                    score_title="ROUGE-L F1",
                ),
                Section(
                    kind="answers",
                    title="Cost: retain questions with the largest loss",
                    lead="Retain questions, largest loss of ROUGE-L against the target first. The model should still "
                    "know these.",
                    set=RETAIN_QA,
                    order="lost",
                    score="rouge_l_f1",
                    score_title="ROUGE-L F1",
                ),
            ]
        return sections

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude by MUSE's criteria C1 to C4; rules: `expunge.benchmarks.muse.judgement`."""
        runs = judgement.Runs(target, unlearned, retain, seed)
        thresholds = judgement.Thresholds(self.memorization_margin, self.privleak_limit, self.tolerance)
        forgetting, reasons = judgement.judge_forgetting(runs, self.parts, thresholds)
        utility = None
        if "knowmem" in self.parts:
            utility, utility_reasons = judgement.judge_utility(runs, thresholds)
            reasons += utility_reasons
        return Judgement(
            benchmark=self.key,
            title=self.title,
            forgetting=forgetting,
            utility=utility,
            metrics="; ".join(
                before_and_after(label.title, None if target is None else target.value(name), unlearned.value(name))
                for name, label in self.labels().items()
            ),
            reasons=reasons,
            rules=judgement.rules(thresholds),
            limits=[
                "Each criterion uses one metric on a small sample of rows. What the model does not recite or answer "
                "here it may still know."
            ],
        )

    def files(self) -> list[str]:
        """Return the files of a local folder."""
        return [*super().files(), *split_files(self.path)]

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "id", "group", "row_hash", "question", "answer", "generation"),
            *("rouge_l_f1", "min_k", "num_tokens"),
        )

    def plan(self, sets: Sets) -> Plan:
        """Generate continuations and answers, and score texts; `sets` are not used.

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
        """Run the plan; texts that continuations are compared with are truncated to the same number of tokens."""
        if VERBMEM in plan.sets:
            plan = replace(plan, sets={**plan.sets, VERBMEM: self._truncated(session, plan.sets[VERBMEM])})
        return super().run(session, plan)

    def rows(self, plan: Plan, scores: Mapping[Key, TokenScores], generations: Mapping[Key, str]) -> list[SampleRow]:
        """Return one record per row: ROUGE-L F1 of generated texts, the Min-40% score of scored texts."""
        records: list[SampleRow] = []
        for name, rows in plan.sets.items():
            generated = [generations.get((name, i, "answer")) for i in range(len(rows))]
            rouge = self._rouge(name, rows, generated)
            for i, row in enumerate(rows):
                scored = scores.get((name, i, "answer"))
                records.append(
                    {
                        "set": name,
                        "index": i,
                        "id": row.id,
                        "group": row.group,
                        "row_hash": fingerprint([row.question, row.answer]),
                        "question": row.question,
                        # Full texts are long, and only their scores are used.
                        "answer": "" if name in (FORGET, HOLDOUT) else row.answer,
                        "generation": generated[i],
                        "rouge_l_f1": rouge.get(i),
                        "min_k": None if scored is None else float(membership_min_k([scored.logp], MIN_K)[0]),
                        "num_tokens": 0 if scored is None else len(scored),
                    }
                )
        return records

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Compute MUSE's four metrics in percent; without a retain model privleak needs `retrain_auc`.

        Args:
            rows: Rows of this model.
            retain_model: The same rows of a model that was trained without the forget set, or None.
            resamples: Bootstrap resamples; 0 for no intervals.
            seed: Seed of the bootstrap.
        """

        def rouge(name: str, better: Better, texts: str) -> Value:
            set_rows = in_set(rows, name)
            generated = [row["answer"] for row in set_rows if row["generation"] is not None]
            reason = "no text has a letter or digit" if generated else "every prompt fills the model's context"
            return mean_value(
                [None if row["rouge_l_f1"] is None else 100 * row["rouge_l_f1"] for row in set_rows],
                [row["group"] for row in set_rows],
                MeanSpec(
                    how=f"mean ROUGE-L F1 of {texts}, in percent{word_rule(generated)}",
                    better=better,
                    needs=f"{texts}: {reason}",
                    unit="%",
                ),
                resamples=resamples,
                seed=seed,
            )

        headlines: dict[str, Value] = {}
        if "verbmem" in self.parts:
            headlines["verbmem_forget"] = rouge(VERBMEM, "lower", "greedy continuations of forget texts")
        if "knowmem" in self.parts:
            headlines["knowmem_forget"] = rouge(FORGET_QA, "lower", "answers to forget questions")
            headlines["knowmem_retain"] = rouge(RETAIN_QA, "higher", "answers to retain questions")
        if "privleak" not in self.parts:
            return Headlines(headlines)
        forget, holdout = _scored(rows, FORGET), _scored(rows, HOLDOUT)
        headlines["privleak"] = privleak_value(forget, holdout, self._retain_model(retain_model), resamples, seed)
        separated = separation_values(forget, holdout, "Min-40%", resamples, seed)
        return Headlines(headlines, {f"privleak/{name}": value for name, value in separated.items()})

    def compare_settings(self, settings: Mapping[str, Any], retain_settings: Mapping[str, Any]) -> None:
        """Raise if the retain model has another tokenizer."""
        if settings.get("vocab") != retain_settings.get("vocab"):
            raise IncompatibleError(
                f"the retain model has a vocabulary of {retain_settings.get('vocab')} tokens, the model one of "
                f"{settings.get('vocab')}, so their Min-40% scores are not comparable.",
                fix="Give a retain model that was trained from the same base model.",
            )

    def compare_rows(self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow]) -> None:
        """Raise if the retain model was measured on other texts."""
        check_same_texts(rows, retain_model)

    def read_stored(self, path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
        """Return rows and settings of a result of this benchmark (results/*.json of a run).

        Raises:
            DataError: The file is not such a result, or its samples are not beside it.
        """
        return read_stored(path)

    def _load(self, name: str, columns: tuple[str, str]) -> RowSet:
        return load_muse(self.path, name, columns, revision=self.revision, limit=self.limit)

    def _examples(self, name: str) -> str:
        """Return the examples that precede each question, as text."""
        if not self.num_examples:
            return ""
        columns = ("question", "answer")
        rows = load_muse(self.path, name, columns, revision=self.revision, limit=self.num_examples)
        return "".join(f"Question: {row.question}\nAnswer: {row.answer}\n\n" for row in rows)

    def _truncated(self, session: Session, rows: RowSet) -> RowSet:
        def first_tokens(text: str) -> str:
            ids = session.template.text_ids(text)
            return session.template.decode(ids[: self.verbmem_tokens])

        return RowSet(rows.name, tuple(replace(row, answer=first_tokens(row.answer)) for row in rows))

    def _rouge(self, name: str, rows: RowSet, generated: Sequence[str | None]) -> dict[int, float]:
        """Return ROUGE-L F1 by index, for the rows that have a generation."""
        texts = {i: text for i, text in enumerate(generated) if text is not None}
        metric = knowledge_memorization if name in QUESTIONS else verbatim_memorization
        values = metric([rows.rows[i].answer for i in texts], list(texts.values()), stem=self.stem)
        # A text without words has no ROUGE.
        return {i: value for i, value in zip(texts, values.tolist(), strict=True) if not math.isnan(value)}

    def _retain_model(self, rows: Sequence[SampleRow] | None) -> tuple[Scored, Scored] | float | None:
        if rows is not None:
            return _scored(rows, FORGET), _scored(rows, HOLDOUT)
        if self.retrain_auc is None:
            return None
        auc = RETRAIN_AUC[self.retrain_auc] if isinstance(self.retrain_auc, str) else self.retrain_auc
        # MUSE's AUC is high if the forget set looks new, ours if it looks known.
        return 1 - auc


def _scored(rows: Sequence[SampleRow], name: str) -> Scored:
    set_rows = in_set(rows, name)
    scores = np.array([np.nan if row["min_k"] is None else row["min_k"] for row in set_rows], dtype=np.float64)
    return Scored(scores, [row["group"] for row in set_rows])

"""TOFU: forget quality against a retain model, and model utility on what should be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

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
from expunge.benchmarks.shared.membership import add_gradient_norms
from expunge.benchmarks.shared.rows import in_set
from expunge.benchmarks.shared.token_scores import TOKEN_NUMBERS, mean_nll, plain, token_numbers
from expunge.benchmarks.tofu.extras import HOLDOUT, PARAPHRASED, Extras
from expunge.benchmarks.tofu.headlines import TofuHeadlines
from expunge.benchmarks.tofu.rows import (
    COMPONENTS,
    CUT_SETS,
    SETS,
    SetName,
    check_retain_model,
    refuse_informed,
    row_truth_ratio,
    same_rows,
)
from expunge.config.defaults import changed
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError
from expunge.metrics.fluency import repetition
from expunge.metrics.probability import probability
from expunge.metrics.rouge import rouge_recalls
from expunge.records import Value

if TYPE_CHECKING:
    from expunge.probes.session import Session

__all__ = ["Tofu", "check_retain_model"]

NEEDS_RETAIN_MODEL = "a retain model or its stored log (model.retain_model=...)"


class Tofu(Benchmark):
    """The evaluation of TOFU: probability, ROUGE-L recall and truth ratio on four sets, and what follows for free.

    Exact memorisation, extraction strength and the membership scores come from the same pass over forget and retain
    answers, and membership scores one more text per holdout row, where the data have such rows (TOFU's holdoutXX);
    repetition and variety come from the answers that are generated anyway. Paraphrased questions cost another
    generation and another scored text per forget and retain row, gradient norms a backward pass per row.
    """

    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121"

    ds_size: int | None = Field(default=None, ge=1)
    """Measure only the first rows of the forget, retain and holdout sets (published numbers: 300); by default all."""
    sets: list[SetName] = Field(default=list(SETS), min_length=1)
    """Measure these sets only. Without all four, model utility cannot be computed; the forget set alone is enough for
    forget quality, at a third of the cost."""
    truth_ratio_mean: Literal["geometric", "arithmetic"] = "geometric"
    """Mean over the probabilities of the wrong answers: 'geometric' as in the published numbers, or
    'arithmetic' as the paper prints it."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Longest generated answer."""
    generate: bool = True
    """Generate answers for ROUGE. Without them it is faster, and model utility cannot be computed."""
    memorization: bool = True
    """Exact memorisation and extraction strength of forget and retain rows, and membership: forget against holdout
    rows, PrivLeak with a retain model."""
    paraphrased: bool = False
    """Ask forget and retain questions in other words too: probability of the answer and ROUGE-L recall."""
    min_k: float = Field(default=0.4, gt=0, le=1)
    """Share of the least likely tokens in the membership scores Min-K% and Min-K%++."""
    gradient_norm: bool = False
    """Membership by gradient norms too: a backward pass for each forget and holdout row."""

    @model_validator(mode="after")
    def _no_dead_setting(self) -> Self:
        if not self.generate and self.max_new_tokens != type(self).model_fields["max_new_tokens"].default:
            raise ValueError("max_new_tokens has no effect with generate: false")
        if not self.memorization and (dead := changed(self, "min_k", "gradient_norm")):
            raise ValueError(f"{dead[0]} has no effect with memorization: false")
        if "forget" not in self.sets:
            raise ValueError("sets needs 'forget', the set that this benchmark is about")
        return self

    def plan(self, sets: Sets) -> Plan:
        """Score every answer, its paraphrase and its wrong variants, and generate once per question.

        Raises:
            DataError: The data has no evaluation set 'forget'.
        """
        chosen: dict[str, RowSet] = {
            name: sets.evaluation[name] for name in SETS if name in sets.evaluation and name in self.sets
        }
        if "forget" not in chosen:
            raise DataError(
                f"{sets.name} has no evaluation set 'forget', which the benchmark {self.name} measures.",
                fix="Use data with right and wrong answers, such as data: {name: tofu} or {name: synthetic}.",
            )
        if self.memorization and sets.holdout is not None:
            chosen[HOLDOUT] = sets.holdout
        measured = {name: self._cut(name, rows) for name, rows in chosen.items()}
        every = [(name, index, row) for name, rows in measured.items() for index, row in enumerate(rows)]
        score = [item for place in every for item in self._scored(*place)]
        generate = [item for place in every for item in self._generated(*place) if self.generate]
        return Plan(sets=measured, score=score, generate=generate)

    def _cut(self, name: str, rows: RowSet) -> RowSet:
        if self.ds_size is None or name not in (*CUT_SETS, HOLDOUT):
            return rows
        return RowSet(name=rows.name, rows=rows.rows[: self.ds_size])

    def _scored(self, name: str, index: int, row: Row) -> list[ScoreRequest]:
        # Hits say how far an answer need not be generated token by token.
        detailed = self.generate or (self.memorization and name in (*CUT_SETS, HOLDOUT))
        asked = [(row.question, what, text) for text, what in _asked(row).items()]
        if self._asks_again(name, row):
            asked.append((row.paraphrased_question, PARAPHRASED, row.answer))
        return [
            ScoreRequest(name, index, what, question, text, detail=detailed and what in ("answer", PARAPHRASED))
            for question, what, text in asked
        ]

    def _generated(self, name: str, index: int, row: Row) -> list[GenerationRequest]:
        if name == HOLDOUT:
            return []
        asked = {"answer": row.question}
        if self._asks_again(name, row):
            asked[PARAPHRASED] = row.paraphrased_question
        return [
            GenerationRequest(name, index, question, self.max_new_tokens, what, draft=row.answer)
            for what, question in asked.items()
        ]

    def _asks_again(self, name: str, row: Row) -> bool:
        return self.paraphrased and name in CUT_SETS and bool(row.paraphrased_question)

    def run(self, session: Session, plan: Plan) -> list[SampleRow]:
        """As usual, and gradient norms where they are wanted."""
        rows = super().run(session, plan)
        if self.gradient_norm:
            add_gradient_norms(rows, session, plan)
        return rows

    def rows(
        self,
        plan: Plan,
        scores: Mapping[Key, TokenScores],
        generations: Mapping[Key, str],
    ) -> list[SampleRow]:
        """One record per row; what could not be scored is None."""
        found = [
            self._row(name, index, row, scores, generations)
            for name, rows in plan.sets.items()
            for index, row in enumerate(rows)
        ]
        for prefix in ("", "paraphrased_"):
            generated = [row for row in found if row[f"{prefix}generation"] is not None]
            recalls = rouge_recalls(
                [row["answer"] for row in generated], [row[f"{prefix}generation"] for row in generated]
            )
            for position, row in enumerate(generated):
                row |= plain(
                    {
                        f"{prefix}rouge_l_recall": recalls["rougeL"][position],
                        f"{prefix}rouge_1_recall": recalls["rouge1"][position],
                    }
                )
        return found

    def _row(
        self,
        name: str,
        index: int,
        row: Row,
        scores: Mapping[Key, TokenScores],
        generations: Mapping[Key, str],
    ) -> SampleRow:
        asked, scored = _asked(row), scores.get((name, index, "answer"))

        def nll(text: str) -> float | None:
            return mean_nll(scores.get((name, index, asked[text])))

        again = mean_nll(scores.get((name, index, PARAPHRASED)))
        generation = generations.get((name, index, "answer"))
        detailed = self.memorization and name in (*CUT_SETS, HOLDOUT) and scored is not None and scored.detailed
        record: SampleRow = {
            "set": name,
            "index": index,
            "id": row.id,
            "group": row.group,
            "question": row.question,
            "answer": row.answer,
            "generation": generation,
            "nll": nll(row.answer),
            "num_tokens": 0 if scored is None else len(scored),
            "paraphrased_nll": nll(row.paraphrased_answer or row.answer),
            "perturbed_nll": [nll(text) for text in row.perturbed_answers],
            "rouge_l_recall": None,
            "rouge_1_recall": None,
            "truth_ratio": None,
            "repetition": None if generation is None else plain({"": repetition([generation])[0]})[""],
            **(token_numbers(scored, row.answer, True, self.min_k) if detailed else dict.fromkeys(TOKEN_NUMBERS)),
            "gradient_norm": None,
            "paraphrased_generation": generations.get((name, index, PARAPHRASED)),
            "paraphrased_probability": None if again is None else float(probability([again])[0]),
            "paraphrased_rouge_l_recall": None,
            "paraphrased_rouge_1_recall": None,
        }
        return {**record, "truth_ratio": row_truth_ratio(record, self.truth_ratio_mean)}

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Forget quality and model utility, what they are made of, and what else was measured.

        Args:
            rows: Rows of this model.
            retain_model: Rows of the retain model, the same rows in any order, or None.
            resamples: Bootstrap resamples for intervals; 0 for none.
            seed: Seed of the bootstrap.

        Raises:
            IncompatibleError: The retain model's rows are not these rows.
        """
        how = TofuHeadlines(self.truth_ratio_mean, self.generate, resamples, seed)
        quality = Value.missing(NEEDS_RETAIN_MODEL)
        if retain_model is not None:
            check_retain_model(rows, retain_model, {}, {})
            ours, theirs = in_set(rows, "forget"), in_set(retain_model, "forget")
            pairs = same_rows(ours, theirs)
            quality = how.quality([ours[i] for i, _ in pairs], [theirs[j] for _, j in pairs])
        return Headlines(
            headlines={"forget_quality": quality, "model_utility": how.utility(rows)},
            metrics={f"{name}/{part}": how.mean(rows, name, part) for name in SETS for part in COMPONENTS}
            | self._extras(rows, retain_model, resamples, seed),
        )

    def _extras(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> dict[str, Value]:
        # Stored evaluations of other tools, and of earlier versions, have no such columns.
        measured = set(rows[0]) if rows else set()
        extras, found = Extras(rows, resamples, seed), dict[str, Value]()
        if self.memorization and "extraction_strength" in measured:
            found |= extras.memorization() | extras.membership(retain_model, self.min_k, self.gradient_norm)
        if self.paraphrased and "paraphrased_probability" in measured:
            found |= extras.paraphrased(self.generate)
        if self.generate and "repetition" in measured:
            found |= extras.fluency()
        return found

    def check_retain_model(
        self,
        rows: Sequence[SampleRow],
        retain_model: Sequence[SampleRow],
        settings: Mapping[str, Any],
        retain_settings: Mapping[str, Any],
    ) -> None:
        """Refuse a retain model with other rows or another split, prompt, tokenizer or model family.

        Raises:
            IncompatibleError: What differs, or that the retain model knows the forget set.
        """
        check_retain_model(rows, retain_model, settings, retain_settings)
        refuse_informed(retain_model)

    def read_stored(self, path: Path) -> tuple[list[SampleRow], dict[str, Any]]:
        """Rows and settings of a TOFU log, an OpenUnlearning TOFU_EVAL.json or a result of this project.

        Raises:
            DataError: The file is damaged or none of the three.
        """
        from expunge.benchmarks.tofu.stored import read_tofu_log

        log = read_tofu_log(path)
        return log.rows, log.settings


def _asked(row: Row) -> dict[str, str]:
    """Text -> name of the request that scores it; a text that occurs twice is scored once."""
    texts = {"answer": row.answer, "paraphrased": row.paraphrased_answer or row.answer}
    texts |= {f"perturbed/{k}": text for k, text in enumerate(row.perturbed_answers)}
    asked: dict[str, str] = {}
    for what, text in texts.items():
        asked.setdefault(text, what)
    return asked

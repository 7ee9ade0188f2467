"""Familiarity: names that only the forget text has in the model's continuations, and perplexity on other text."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

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
from expunge.benchmarks.familiarity import judgement
from expunge.benchmarks.shared.mean import MeanSpec, mean_value
from expunge.benchmarks.shared.paired import before_and_after
from expunge.data.anchors.dictionary import Anchors, find_anchors, read_anchors
from expunge.data.anchors.mining import mine_anchors
from expunge.data.anchors.passages import anchor_passages
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.text import split_text
from expunge.errors import DataError
from expunge.metrics.bootstrap import cluster_bootstrap
from expunge.metrics.familiarity import familiarity_completion
from expunge.metrics.fluency import perplexity, resampled_perplexity
from expunge.records import Axes, Judgement, Label, Section, Value

MAX_DOCUMENTS = 20
"""Largest number of documents in a set whose perplexities are also reported by document."""
ANCHORS, PASSAGES, FORGET, RETAIN = "anchors", "passages", "forget_text", "retain_text"


class Familiarity(Benchmark):
    """Familiarity with a forget text, and perplexity on it and on the retain text.

    Passages of the forget text end just before an anchor (a name, a place, an invented word) that they do not mention.
    The model continues them greedily; familiarity is the share of completions that name an anchor. The passages are
    ours, since the paper's prompts and judge are not public. Needs data of plain text, which is continued unchanged.
    """

    title: ClassVar[str] = "Familiarity"
    paper: ClassVar[str] = "after Eldan & Russinovich 2023, arXiv:2310.02238, section 4"

    anchors: str | None = None
    """JSON file of anchors; by default they are mined by comparing the forget text with the retain text."""
    num: int = Field(default=300, ge=1)
    """Number of passages, and of pieces of text per perplexity."""
    prompt_words: int = Field(default=40, ge=1)
    """Words before an anchor."""
    max_new_tokens: int = Field(default=20, ge=1)
    """Length of completions."""
    piece_characters: int = Field(default=300, ge=20)
    """Length of the pieces of text for perplexity."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling of passages and pieces."""

    def labels(self) -> dict[str, Label]:
        """Return the presentation of familiarity, anchor probability and the perplexities."""
        return {
            "familiarity": Label(
                title="Familiarity",
                explain="share of passages whose continuation names something that only the forget text has",
                better="lower",
            ),
            "anchor_probability": Label(
                title="Anchor probability", explain="mean probability of the text's next name", better="lower"
            ),
            "forget_perplexity": Label(title="Forget perplexity", explain="perplexity per token of the forget text"),
            "retain_perplexity": Label(
                title="Retain perplexity", explain="perplexity per token of the retain text", better="lower"
            ),
        }

    def metric_labels(self) -> dict[str, Label]:
        """Return the presentation of the perplexities by document."""
        return {"perplexity": Label(title="perplexity", explain="per token of one document")}

    def axes(self) -> Axes:
        """Return familiarity against perplexity on the retain text."""
        return Axes(forget="familiarity", utility="retain_perplexity")

    def sections(self) -> list[Section]:
        """Return the continuations of the passages."""
        return [
            Section(
                kind="completions",
                title="Completions before and after",
                lead="Passages of the forget text end just before a name that is specific to it, and the model "
                "continues them. Worst first: continuations that still name something, then those whose true next "
                "words the unlearned model finds likeliest. Marked names belong to the forget text and are not in the "
                "passage. p is the probability of the true next words.",
                set=PASSAGES,
                question="prompt",
                answer="text",
                response="completion",
                score="",
                score_title="",
            )
        ]

    def judge(
        self, target: Measurement | None, unlearned: Measurement, retain: Measurement | None, *, seed: int = 0
    ) -> Judgement:
        """Conclude by familiarity and retain perplexity; rules: `expunge.benchmarks.familiarity.judgement`."""
        forgetting, forgetting_reasons = judgement.judge_forgetting(target, unlearned)
        utility, utility_reasons = judgement.judge_utility(target, unlearned)
        return Judgement(
            benchmark=self.key,
            title=self.title,
            forgetting=forgetting,
            utility=utility,
            metrics="; ".join(
                before_and_after(
                    name.replace("_", " "), None if target is None else target.value(name), unlearned.value(name)
                )
                for name in ("familiarity", "retain_perplexity")
            ),
            reasons=forgetting_reasons + utility_reasons,
            rules=judgement.rules(),
            limits=judgement.LIMITS,
        )

    def files(self) -> list[str]:
        """Return the anchor file, if there is one."""
        return [*super().files(), *([] if self.anchors is None else [str(Path(self.anchors).expanduser())])]

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "group", "document", "prompt", "text", "completion"),
            *("prompt_anchors", "completion_anchors", "logp", "num_tokens"),
        )

    def plan(self, sets: Sets) -> Plan:
        """Complete passages, and score the anchors that follow them and pieces of both texts.

        Raises:
            DataError: No anchor has enough words before it.
        """
        texts = {"forget": _texts(sets.forget), "retain": _texts(sets.retain)}
        if self.anchors is not None:
            anchors = read_anchors(Path(self.anchors).expanduser())
        else:
            anchors = mine_anchors(texts["forget"], texts["retain"])
        passages = anchor_passages(
            texts["forget"], anchors, num=self.num, prompt_words=self.prompt_words, seed=self.seed
        )
        if not passages:
            raise DataError(
                f"no anchor of {sets.name} has {self.prompt_words} words before it that do not name it.",
                fix="Lower prompt_words, or set other anchors.",
            )
        measured = {
            ANCHORS: RowSet(ANCHORS, tuple(Row(f"{ANCHORS}/{key}", key, anchors[key][0], key) for key in anchors)),
            PASSAGES: RowSet(
                PASSAGES,
                tuple(
                    Row(f"{PASSAGES}/{i}", passage.prompt, passage.key, f"{i}") for i, passage in enumerate(passages)
                ),
            ),
            FORGET: self._pieces(FORGET, sets.forget),
            RETAIN: self._pieces(RETAIN, sets.retain),
        }
        score = [
            ScoreRequest(PASSAGES, i, "answer", row.question, f" {row.answer}", raw=True)
            for i, row in enumerate(measured[PASSAGES])
        ]
        for name in (FORGET, RETAIN):
            score += [ScoreRequest(name, i, "answer", "", row.answer, raw=True) for i, row in enumerate(measured[name])]
        generate = [
            GenerationRequest(PASSAGES, i, row.question, self.max_new_tokens, raw=True)
            for i, row in enumerate(measured[PASSAGES])
        ]
        return Plan(sets=measured, score=score, generate=generate)

    def rows(
        self,
        plan: Plan,
        scores: Mapping[Key, TokenScores],
        generations: Mapping[Key, str],
    ) -> list[SampleRow]:
        """Return one record per passage and piece."""
        anchors = {row.question: [row.answer] for row in plan.sets[ANCHORS]}
        records = []
        for name in (PASSAGES, FORGET, RETAIN):
            for index, row in enumerate(plan.sets[name]):
                scored = scores.get((name, index, "answer"))
                logp = [] if scored is None else scored.logp.tolist()
                completion = generations.get((name, index, "answer"))
                records.append(
                    {
                        "set": name,
                        "index": index,
                        "group": row.group,
                        "document": row.topic,
                        "prompt": row.question,
                        "text": row.answer,
                        "completion": completion,
                        "prompt_anchors": _names(row.question, anchors),
                        "completion_anchors": None if completion is None else _names(completion, anchors),
                        "logp": sum(logp) if logp else None,
                        "num_tokens": len(logp),
                    }
                )
        return records

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Compute familiarity and the perplexities, by document too; the retain model has a result of its own."""
        passages, forget, retain = ([row for row in rows if row["set"] == name] for name in (PASSAGES, FORGET, RETAIN))
        return Headlines(
            metrics={
                f"{name}/{document}/perplexity": _perplexity(document_rows, resamples, seed, better)
                for name, set_rows, better in ((FORGET, forget, ""), (RETAIN, retain, "lower"))
                for document, document_rows in _by_document(set_rows).items()
            },
            headlines={
                "familiarity": _familiarity(passages, resamples, seed),
                "anchor_probability": mean_value(
                    [None if row["logp"] is None else float(np.exp(row["logp"])) for row in passages],
                    [row["group"] for row in passages],
                    MeanSpec(
                        "mean probability of the anchor that the text has next",
                        "lower",
                        "scores: every prompt fills the model's context",
                    ),
                    resamples=resamples,
                    seed=seed,
                ),
                "forget_perplexity": _perplexity(forget, resamples, seed, ""),
                "retain_perplexity": _perplexity(retain, resamples, seed, "lower"),
            },
        )

    def _pieces(self, name: str, rows: RowSet | None) -> RowSet:
        pieces = [
            (row.group, piece.strip())
            for row, text in zip(rows or (), _texts(rows), strict=True)
            for piece in split_text(text, self.piece_characters)
        ]
        if len(pieces) > self.num:
            indices = np.random.default_rng([self.seed, len(name)]).choice(len(pieces), size=self.num, replace=False)
            pieces = [pieces[i] for i in sorted(indices)]
        # Intervals resample pieces, so each is a group; the document that it was cut from becomes its topic.
        return RowSet(
            name,
            tuple(Row(f"{name}/{i}", "", text, f"{i}", topic=document) for i, (document, text) in enumerate(pieces)),
        )


def _texts(rows: RowSet | None) -> list[str]:
    return [f"{row.question}\n{row.answer}" if row.question else row.answer for row in rows or ()]


def _by_document(rows: Sequence[SampleRow]) -> dict[str, list[SampleRow]]:
    """Return the pieces by document; empty if there is only one, or more than `MAX_DOCUMENTS`."""
    documents: dict[str, list[SampleRow]] = {}
    for row in rows:
        documents.setdefault(str(row.get("document")), []).append(row)
    return documents if 1 < len(documents) <= MAX_DOCUMENTS else {}


def _names(text: str, anchors: Anchors) -> list[str]:
    return sorted({anchor.key for anchor in find_anchors(text, anchors)})


def _familiarity(rows: Sequence[SampleRow], resamples: int, seed: int) -> Value:
    completed = [i for i, row in enumerate(rows) if row["completion_anchors"] is not None]
    scores: list[float | None] = [None] * len(rows)
    hits = familiarity_completion(
        [rows[i]["prompt_anchors"] for i in completed], [rows[i]["completion_anchors"] for i in completed]
    )
    for i, hit in zip(completed, hits.tolist(), strict=True):
        scores[i] = hit
    spec = MeanSpec(
        "share of passages of the forget text whose greedy completion names an anchor that the prompt does not",
        "lower",
        "completions: every prompt fills the model's context",
        is_proportion=True,
    )
    return mean_value(scores, [row["group"] for row in rows], spec, resamples=resamples, seed=seed)


def _perplexity(rows: Sequence[SampleRow], resamples: int, seed: int, better: str) -> Value:
    """Compute exp(-sum of logp / number of tokens) over all pieces."""
    scored = [row for row in rows if row["logp"] is not None]
    if not scored:
        return Value.missing("text of this set that fits into the model's context")
    logp, tokens = (np.array([row[name] for row in scored], dtype=np.float64) for name in ("logp", "num_tokens"))
    statistic, groups = functools.partial(resampled_perplexity, logp, tokens), [row["group"] for row in scored]
    value = Value(
        point=float(np.exp(-logp.sum() / tokens.sum())),
        n=len(scored),
        n_missing=len(rows) - len(scored),
        how=f"perplexity per token of {len(scored)} pieces of text",
        better=better,
    )
    return cluster_bootstrap(statistic, [groups], resamples, seed, bounds=perplexity.spec.range).attach(value)

"""Familiarity: does a model still name what only the forget text has, and does it still predict other text?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

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
from expunge.data.anchors.dictionary import Anchors, find_anchors, read_anchors
from expunge.data.anchors.mining import mine_anchors
from expunge.data.anchors.passages import anchor_passages
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.text import split
from expunge.errors import DataError
from expunge.metrics.familiarity import familiarity_completion
from expunge.metrics.intervals import cluster_bootstrap, mean_interval, weighted_mean
from expunge.records import Value

MAX_DOCUMENTS = 20
"""Perplexities are also given by document where a set has no more of them than this."""
ANCHORS, PASSAGES, FORGET, RETAIN = "anchors", "passages", "forget_text", "retain_text"


class Familiarity(Benchmark):
    """Familiarity with a forget text, and perplexity on it and on the retain text.

    Passages of the forget text break off where an anchor (a name, a place, an invented word) is due that they have
    not named. The model goes on greedily; familiarity is the share of completions that name an anchor. Ours: the
    paper's prompts and judge are not public. Needs data of plain text, which is continued as it stands.
    """

    paper: ClassVar[str] = "after Eldan & Russinovich 2023, arXiv:2310.02238, section 4"

    anchors: str | None = None
    """JSON file of anchors; without one they are found by comparing the forget text with the retain text."""
    num: int = Field(default=300, ge=1)
    """Passages, and pieces of text per perplexity."""
    prompt_words: int = Field(default=40, ge=1)
    """Words before an anchor."""
    max_new_tokens: int = Field(default=20, ge=1)
    """Length of completions."""
    piece_characters: int = Field(default=300, ge=20)
    """Length of the pieces whose perplexity is measured."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw of passages and pieces."""

    def files(self) -> list[str]:
        """The anchor dictionary, where it is a file."""
        return [*super().files(), *([] if self.anchors is None else [str(Path(self.anchors).expanduser())])]

    def columns(self) -> Sequence[str]:
        """Return the columns of the per-sample rows."""
        return (
            *("set", "index", "group", "document", "prompt", "text", "completion"),
            *("told", "named", "logp", "num_tokens"),
        )

    def plan(self, sets: Sets) -> Plan:
        """Passages to complete, the anchors that follow them to score, and pieces of text to score."""
        texts = {"forget": _texts(sets.forget), "retain": _texts(sets.retain)}
        anchors = self._anchors(texts)
        passages = anchor_passages(
            texts["forget"], anchors, num=self.num, prompt_words=self.prompt_words, seed=self.seed
        )
        if not passages:
            raise DataError(
                f"no anchor of {sets.name} has {self.prompt_words} words before it that do not name it.",
                fix="Lower prompt_words, or give other anchors.",
            )
        chosen = {
            ANCHORS: RowSet(ANCHORS, tuple(Row(f"{ANCHORS}/{key}", key, anchors[key][0], key) for key in anchors)),
            PASSAGES: RowSet(
                PASSAGES,
                tuple(Row(f"{PASSAGES}/{i}", each.prompt, each.key, f"{i}") for i, each in enumerate(passages)),
            ),
            FORGET: self._pieces(FORGET, sets.forget),
            RETAIN: self._pieces(RETAIN, sets.retain),
        }
        score = [
            ScoreRequest(PASSAGES, i, "answer", row.question, f" {row.answer}", raw=True)
            for i, row in enumerate(chosen[PASSAGES])
        ]
        for name in (FORGET, RETAIN):
            score += [ScoreRequest(name, i, "answer", "", row.answer, raw=True) for i, row in enumerate(chosen[name])]
        generate = [
            GenerationRequest(PASSAGES, i, row.question, self.max_new_tokens, raw=True)
            for i, row in enumerate(chosen[PASSAGES])
        ]
        return Plan(sets=chosen, score=score, generate=generate)

    def rows(
        self,
        plan: Plan,
        scores: Mapping[Key, TokenScores],
        generations: Mapping[Key, str],
    ) -> list[SampleRow]:
        """One record per passage and piece."""
        anchors = {row.question: [row.answer] for row in plan.sets[ANCHORS]}
        found = []
        for name in (PASSAGES, FORGET, RETAIN):
            for index, row in enumerate(plan.sets[name]):
                scored = scores.get((name, index, "answer"))
                logp = [] if scored is None else scored.logp.tolist()
                completion = generations.get((name, index, "answer"))
                found.append(
                    {
                        "set": name,
                        "index": index,
                        "group": row.group,
                        "document": row.topic,
                        "prompt": row.question,
                        "text": row.answer,
                        "completion": completion,
                        "told": _names(row.question, anchors),
                        "named": None if completion is None else _names(completion, anchors),
                        "logp": sum(logp) if logp else None,
                        "num_tokens": len(logp),
                    }
                )
        return found

    def headlines(
        self, rows: Sequence[SampleRow], retain_model: Sequence[SampleRow] | None, resamples: int, seed: int
    ) -> Headlines:
        """Familiarity and the perplexities, by document too; a retain model's stand beside them in its own result."""
        passages = [row for row in rows if row["set"] == PASSAGES]
        documents = {
            f"{name}/{document}/perplexity": _perplexity(part, resamples, seed, better)
            for name, better in ((FORGET, ""), (RETAIN, "lower"))
            for document, part in _by_document([row for row in rows if row["set"] == name]).items()
        }
        return Headlines(
            metrics=documents,
            headlines={
                "familiarity": _hit_rate(passages, resamples, seed),
                "anchor_probability": _anchor_probability(passages, resamples, seed),
                "forget_perplexity": _perplexity([row for row in rows if row["set"] == FORGET], resamples, seed, ""),
                "retain_perplexity": _perplexity(
                    [row for row in rows if row["set"] == RETAIN], resamples, seed, "lower"
                ),
            },
        )

    def _anchors(self, texts: Mapping[str, list[str]]) -> Anchors:
        if self.anchors is not None:
            return read_anchors(Path(self.anchors).expanduser())
        return mine_anchors(texts["forget"], texts["retain"])

    def _pieces(self, name: str, rows: RowSet | None) -> RowSet:
        pieces = [
            (row.group, piece.strip())
            for row, text in zip(rows or (), _texts(rows), strict=True)
            for piece in split(text, self.piece_characters)
        ]
        if len(pieces) > self.num:
            chosen = np.random.default_rng([self.seed, len(name)]).choice(len(pieces), size=self.num, replace=False)
            pieces = [pieces[i] for i in sorted(chosen)]
        # A piece is a group of its own, as intervals are over pieces; what it was cut from is its topic.
        cut = (Row(f"{name}/{i}", "", text, f"{i}", topic=document) for i, (document, text) in enumerate(pieces))
        return RowSet(name, tuple(cut))


def _texts(rows: RowSet | None) -> list[str]:
    return [f"{row.question}\n{row.answer}" if row.question else row.answer for row in rows or ()]


def _by_document(rows: Sequence[SampleRow]) -> dict[str, list[SampleRow]]:
    """Pieces by the row group that they were cut from; none where there is but one, or too many to read."""
    found: dict[str, list[SampleRow]] = {}
    for row in rows:
        found.setdefault(str(row.get("document")), []).append(row)
    return found if 1 < len(found) <= MAX_DOCUMENTS else {}


def _names(text: str, anchors: Anchors) -> list[str]:
    return sorted({found.key for found in find_anchors(text, anchors)})


def _hit_rate(rows: Sequence[SampleRow], resamples: int, seed: int) -> Value:
    present = [row for row in rows if row["named"] is not None]
    if not present:
        return Value.missing("completions: every prompt fills the model's context")
    hits = familiarity_completion([row["told"] for row in present], [row["named"] for row in present])
    how = "share of passages of the forget text whose greedy completion names an anchor that the prompt does not"
    return _mean(hits, present, len(rows), resamples, seed, how)


def _anchor_probability(rows: Sequence[SampleRow], resamples: int, seed: int) -> Value:
    present = [row for row in rows if row["logp"] is not None]
    if not present:
        return Value.missing("scores: every prompt fills the model's context")
    values = np.exp([row["logp"] for row in present])
    how = "mean probability of the anchor that the text has next"
    return _mean(values, present, len(rows), resamples, seed, how)


def _mean(
    values: NDArray[np.float64], present: Sequence[SampleRow], total: int, resamples: int, seed: int, how: str
) -> Value:
    interval = mean_interval(values, [row["group"] for row in present], resamples, seed) or (None, None)
    return Value(
        point=float(values.mean()),
        low=interval[0],
        high=interval[1],
        n=len(present),
        n_missing=total - len(present),
        how=f"{how}; bootstrap over passages",
        better="lower",
    )


def _perplexity(rows: Sequence[SampleRow], resamples: int, seed: int, better: str) -> Value:
    """exp(-sum of logp / number of tokens) over all pieces."""
    present = [row for row in rows if row["logp"] is not None]
    if not present:
        return Value.missing("text of this set that fits into the model's context")
    logp, tokens = (np.array([row[name] for row in present], dtype=np.float64) for name in ("logp", "num_tokens"))

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(-weighted_mean(logp, weights) / weighted_mean(tokens, weights))

    interval = cluster_bootstrap(statistic, [[row["group"] for row in present]], resamples, seed) or (None, None)
    return Value(
        point=float(np.exp(-logp.sum() / tokens.sum())),
        low=interval[0],
        high=interval[1],
        n=len(present),
        n_missing=len(rows) - len(present),
        how=f"perplexity per token of {len(present)} pieces of text; bootstrap over pieces",
        better=better,
    )

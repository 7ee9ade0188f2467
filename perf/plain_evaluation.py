"""TOFU's evaluation the plain way: what published code does, written plainly.

Every metric makes its own data set and runs its own forward pass over each of its texts, prompts repeated for each
answer, in file order, in batches padded to their longest text, with the logits of every position. Answers are
generated in file order too, in left-padded batches that run until their last answer has ended.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import hmean, ks_2samp
from torch import Tensor

from expunge.data.sets import Row, RowSet
from expunge.data.templates import Encoded, Template

BATCH = 32
UTILITY = ("retain", "real_authors", "world_facts")
Losses = list[list[float]]


class PlainEvaluation:
    """Measures one model.

    Args:
        model: The model.
        template: How questions become tokens.
        sets: Evaluation sets of TOFU, and 'holdout'.
        max_new_tokens: Longest generated answer.
    """

    def __init__(self, model: Any, template: Template, sets: dict[str, RowSet], max_new_tokens: int = 200) -> None:
        self.model, self.template, self.sets, self.max_new_tokens = model.eval(), template, sets, max_new_tokens
        self.generations: dict[str, list[str]] = {}

    def first(self, retain_model: dict[str, Losses]) -> dict[str, float]:
        """The metrics of TOFU's paper; the retain model's losses of paraphrased and wrong forget answers are given."""
        numbers: dict[str, float] = {}
        for name in ("forget", *UTILITY):
            rows = list(self.sets[name])
            numbers[f"{name}/probability"] = self.probability(rows, name)
            ratios = self.truth_ratios(rows)
            if name == "forget":
                numbers[f"{name}/truth_ratio"] = float(np.minimum(ratios, 1 / ratios).mean())
                numbers["forget_quality"] = float(ks_2samp(ratios, _ratios(**retain_model)).pvalue)
            else:
                numbers[f"{name}/truth_ratio"] = float(np.maximum(0, 1 - ratios).mean())
            numbers[f"{name}/rouge_l_recall"] = self.rouge(rows, [row.question for row in rows], name)
        parts = ("probability", "rouge_l_recall", "truth_ratio")
        numbers["model_utility"] = float(hmean([numbers[f"{name}/{part}"] for name in UTILITY for part in parts]))
        return numbers

    def extras(self, retain_model: dict[str, list[float]]) -> dict[str, float]:
        """Memorisation, membership and paraphrased questions; the retain model's losses of both sides are given."""
        numbers: dict[str, float] = {}
        for name in ("forget", "retain"):
            rows = list(self.sets[name])
            hits = [found[1] for found in self.run(_asked(rows))]
            numbers[f"{name}/exact_memorization"] = float(np.mean([row.mean() for row in hits]))
            strength = [found[1] for found in self.run(_asked(rows))]
            numbers[f"{name}/extraction_strength"] = float(np.mean([_strength(row) for row in strength]))
            again = [(row.paraphrased_question, row.answer) for row in rows]
            numbers[f"{name}/paraphrased_probability"] = float(np.exp([-x for x in self.losses(again)]).mean())
            questions = [question for question, _ in again]
            numbers[f"{name}/paraphrased_rouge_l_recall"] = self.rouge(rows, questions, f"{name}/paraphrased")
        sides = {name: list(self.sets[name]) for name in ("forget", "holdout")}
        for attack in (_loss, _zlib, _min_k, _min_k_plus):
            scores = [
                [attack(row, *found) for row, found in zip(rows, self.run(_asked(rows)), strict=True)]
                for rows in sides.values()
            ]
            numbers[f"membership/{attack.__name__.lstrip('_')}_auc"] = _auc(*scores)
        beyond = [np.subtract(self.losses(_asked(rows)), retain_model[name]) for name, rows in sides.items()]
        numbers["membership/retain_model_auc"] = _auc(*beyond)
        return numbers

    def gradient_norms(self) -> dict[str, float]:
        """The membership score that needs a backward pass per row."""
        scores = [[self._norm(row) for row in self.sets[name]] for name in ("forget", "holdout")]
        return {"membership/gradient_norm_auc": _auc(*scores)}

    def probability(self, rows: list[Row], name: str) -> float:
        """Mean probability of the answer; among its wrong variants where these are what is asked."""
        right = np.exp([-x for x in self.losses(_asked(rows))])
        if name not in ("real_authors", "world_facts"):
            return float(right.mean())
        wrong = np.exp(-np.array(self.wrong_losses(rows)))
        return float((right / (right + wrong.sum(1))).mean())

    def truth_ratios(self, rows: list[Row]) -> np.ndarray[Any, Any]:
        """Geometric mean of the wrong answers' probabilities over the probability of the right one in other words."""
        return _ratios(**self.truth_losses(rows))

    def truth_losses(self, rows: list[Row]) -> dict[str, Any]:
        """What truth ratios are made of."""
        right = [(row.question, row.paraphrased_answer or row.answer) for row in rows]
        return {"right": self.losses(right), "wrong": self.wrong_losses(rows)}

    def wrong_losses(self, rows: list[Row]) -> Losses:
        """(rows, variants) mean losses of wrong answers."""
        count = len(rows[0].perturbed_answers)
        columns = [self.losses([(row.question, row.perturbed_answers[k]) for row in rows]) for k in range(count)]
        return [list(row) for row in zip(*columns, strict=True)]

    def losses(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """Mean loss of each answer, from the logits of every position."""
        return [-math.fsum(found[0].tolist()) / len(found[0]) for found in self.run(texts, detail=False)]

    @torch.no_grad()
    def run(self, texts: Sequence[tuple[str, str]], detail: bool = True) -> list[tuple[Tensor, ...]]:
        """Log-probability, hits and moments of each answer's tokens; hits and moments without the last token."""
        template, found = self.template.without_limit(), []
        items = [template.encode(question, answer) for question, answer in texts]
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            ids, mask = _pad(batch, left=False)
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
            for row, item in zip(logits, batch, strict=True):
                part = row[item.answer_start - 1 : len(item.ids) - 1]
                labels = torch.tensor(item.ids[item.answer_start :])
                logp = part.gather(1, labels[:, None])[:, 0]
                if not detail:
                    found.append((logp,))
                    continue
                p = part.exp()
                mean = (p * part).sum(-1)
                variance = (p * part.square()).sum(-1) - mean.square()
                found.append((logp, (part.argmax(-1) == labels)[:-1].numpy(), mean[:-1], variance[:-1]))
        return found

    def rouge(self, rows: list[Row], questions: Sequence[str], name: str) -> float:
        """Mean ROUGE-L recall of generated answers."""
        scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
        texts = self.generations[name] = self.answers(questions)
        pairs = zip(rows, texts, strict=True)
        return float(np.mean([scorer.score(row.answer, text)["rougeL"].recall for row, text in pairs]))

    @torch.no_grad()
    def answers(self, questions: Sequence[str]) -> list[str]:
        """Greedy answers."""
        prompts = [Encoded(tuple(self.template.prompt_ids(question)), 0) for question in questions]
        found: list[str] = []
        for start in range(0, len(prompts), BATCH):
            ids, mask = _pad(prompts[start : start + BATCH], left=True)
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=self.max_new_tokens, do_sample=False
            )
            for row in out[:, ids.shape[1] :].tolist():
                end = self.model.config.eos_token_id
                found.append(self.template.decode(row[: row.index(end)] if end in row else row))
        return found

    def _norm(self, row: Row) -> float:
        item = self.template.without_limit().encode(row.question, row.answer)
        labels = torch.tensor([[-100] * item.answer_start + list(item.ids[item.answer_start :])])
        self.model.zero_grad()
        self.model(input_ids=torch.tensor([item.ids]), labels=labels).loss.backward()
        norms = [float(weight.grad.norm()) for weight in self.model.parameters()]
        self.model.zero_grad()
        return float(np.mean(norms))


def _asked(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row.question, row.answer) for row in rows]


def _pad(items: Sequence[Encoded], left: bool) -> tuple[Tensor, Tensor]:
    width = max(len(item.ids) for item in items)
    ids, mask = torch.zeros(len(items), width, dtype=torch.long), torch.zeros(len(items), width, dtype=torch.long)
    for row, item in enumerate(items):
        place = slice(width - len(item.ids), width) if left else slice(0, len(item.ids))
        ids[row, place], mask[row, place] = torch.tensor(item.ids), 1
    return ids, mask


def _ratios(right: Sequence[float], wrong: Losses) -> np.ndarray[Any, Any]:
    return np.exp(np.array(right) - np.array(wrong).mean(1))


def _strength(hits: np.ndarray[Any, Any]) -> float:
    return 1 - next(k for k in range(len(hits) + 1) if hits[k:].all()) / len(hits)


def _lowest(values: Tensor) -> float:
    return -float(values.sort().values[: max(1, int(0.4 * len(values)))].mean())


def _loss(row: Row, logp: Tensor, *_: Any) -> float:
    return -float(logp.double().mean())


def _zlib(row: Row, logp: Tensor, *_: Any) -> float:
    return -float(logp.double().mean()) / len(zlib.compress(row.answer.encode()))


def _min_k(row: Row, logp: Tensor, *_: Any) -> float:
    return _lowest(logp[:-1])


def _min_k_plus(row: Row, logp: Tensor, hits: Any, mean: Tensor, variance: Tensor) -> float:
    return _lowest((logp[:-1] - mean) / variance.clamp(min=1e-6).sqrt())


def _auc(forget: Any, holdout: Any) -> float:
    below = np.asarray(forget)[:, None] < np.asarray(holdout)
    return float(below.mean() + (np.asarray(forget)[:, None] == np.asarray(holdout)).mean() / 2)

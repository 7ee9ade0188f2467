"""Plain TOFU evaluation: what published code does, in its simplest form.

Every metric creates its own data set and runs a separate forward pass over each of its texts, with prompts repeated for
each answer, in file order, in batches padded to their longest text, with the logits of every position. Answers are
generated in file order, too, in left-padded batches that run until their last answer has ended.
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
    """Evaluation of one model.

    Args:
        model: The model.
        template: Turns questions and answers into tokens.
        sets: TOFU's evaluation sets, and 'holdout'.
        max_new_tokens: Maximum length of a generated answer in tokens.
    """

    def __init__(self, model: Any, template: Template, sets: dict[str, RowSet], max_new_tokens: int = 200) -> None:
        self.model, self.template, self.sets, self.max_new_tokens = model.eval(), template, sets, max_new_tokens
        self.generations: dict[str, list[str]] = {}

    def first(self, retain_model: dict[str, Losses]) -> dict[str, float]:
        """Return the metrics of TOFU's paper.

        Args:
            retain_model: The retain model's losses of right (paraphrased) and wrong forget answers.
        """
        metrics: dict[str, float] = {}
        for name in ("forget", *UTILITY):
            rows = list(self.sets[name])
            metrics[f"{name}/probability"] = self.probability(rows, name)
            ratios = self.truth_ratios(rows)
            if name == "forget":
                metrics[f"{name}/truth_ratio"] = float(np.minimum(ratios, 1 / ratios).mean())
                metrics["forget_quality"] = float(ks_2samp(ratios, _ratios(**retain_model)).pvalue)
            else:
                metrics[f"{name}/truth_ratio"] = float(np.maximum(0, 1 - ratios).mean())
            metrics[f"{name}/rouge_l_recall"] = self.rouge(rows, [row.question for row in rows], name)
        kinds = ("probability", "rouge_l_recall", "truth_ratio")
        metrics["model_utility"] = float(hmean([metrics[f"{name}/{kind}"] for name in UTILITY for kind in kinds]))
        return metrics

    def extras(self, retain_model: dict[str, list[float]]) -> dict[str, float]:
        """Return memorisation, membership and paraphrase metrics.

        Args:
            retain_model: The retain model's losses of the forget and holdout answers.
        """
        metrics: dict[str, float] = {}
        for name in ("forget", "retain"):
            rows = list(self.sets[name])
            hits = [result[1] for result in self.run(_texts(rows))]
            metrics[f"{name}/exact_memorization"] = float(np.mean([row.mean() for row in hits]))
            hits = [result[1] for result in self.run(_texts(rows))]
            metrics[f"{name}/extraction_strength"] = float(np.mean([_extraction_strength(row) for row in hits]))
            paraphrased = [(row.paraphrased_question, row.answer) for row in rows]
            metrics[f"{name}/paraphrased_probability"] = float(np.exp([-x for x in self.losses(paraphrased)]).mean())
            questions = [question for question, _ in paraphrased]
            metrics[f"{name}/paraphrased_rouge_l_recall"] = self.rouge(rows, questions, f"{name}/paraphrased")
        sides = {name: list(self.sets[name]) for name in ("forget", "holdout")}
        for attack in (_loss, _zlib, _min_k, _min_k_plus):
            scores = [
                [attack(row, *result) for row, result in zip(rows, self.run(_texts(rows)), strict=True)]
                for rows in sides.values()
            ]
            metrics[f"membership/{attack.__name__.lstrip('_')}_auc"] = _auc(*scores)
        excess = [np.subtract(self.losses(_texts(rows)), retain_model[name]) for name, rows in sides.items()]
        metrics["membership/reference_auc"] = _auc(*excess)
        return metrics

    def gradient_norms(self) -> dict[str, float]:
        """Return the membership metric that needs a backward pass per row."""
        scores = [[self._gradient_norm(row) for row in self.sets[name]] for name in ("forget", "holdout")]
        return {"membership/gradient_norm_auc": _auc(*scores)}

    def probability(self, rows: list[Row], name: str) -> float:
        """Return the mean probability of the answers; for multiple choice, normalised over the wrong ones."""
        right = np.exp([-x for x in self.losses(_texts(rows))])
        if name not in ("real_authors", "world_facts"):
            return float(right.mean())
        wrong = np.exp(-np.array(self.wrong_losses(rows)))
        return float((right / (right + wrong.sum(1))).mean())

    def truth_ratios(self, rows: list[Row]) -> np.ndarray[Any, Any]:
        """Return the geometric mean of the wrong answers' probabilities over that of the paraphrased right one."""
        right = [(row.question, row.paraphrased_answer or row.answer) for row in rows]
        return _ratios(right=self.losses(right), wrong=self.wrong_losses(rows))

    def wrong_losses(self, rows: list[Row]) -> Losses:
        """Return (rows, variants) mean losses of the wrong answers."""
        count = len(rows[0].perturbed_answers)
        columns = [self.losses([(row.question, row.perturbed_answers[k]) for row in rows]) for k in range(count)]
        return [list(row) for row in zip(*columns, strict=True)]

    def losses(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """Return the mean loss of each answer, from the logits of every position."""
        return [-math.fsum(result[0].tolist()) / len(result[0]) for result in self.run(texts, detail=False)]

    @torch.no_grad()
    def run(self, texts: Sequence[tuple[str, str]], detail: bool = True) -> list[tuple[Tensor, ...]]:
        """Return per answer its tokens' log-probabilities and, with `detail`, hits, means and variances.

        Hits tell whether a token is the most likely one; mean and variance are of the log-probability under the
        prediction. They leave out the last token.
        """
        template, results = self.template.without_limit(), []
        items = [template.encode(question, answer) for question, answer in texts]
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            ids, mask = _pad(batch, left=False)
            log_probs = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
            for row, item in zip(log_probs, batch, strict=True):
                answer = row[item.answer_start - 1 : len(item.ids) - 1]
                labels = torch.tensor(item.ids[item.answer_start :])
                logp = answer.gather(1, labels[:, None])[:, 0]
                if not detail:
                    results.append((logp,))
                    continue
                p = answer.exp()
                mean = (p * answer).sum(-1)
                variance = (p * answer.square()).sum(-1) - mean.square()
                results.append((logp, (answer.argmax(-1) == labels)[:-1].numpy(), mean[:-1], variance[:-1]))
        return results

    def rouge(self, rows: list[Row], questions: Sequence[str], name: str) -> float:
        """Return the mean ROUGE-L recall of generated answers."""
        scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
        texts = self.generations[name] = self.answers(questions)
        pairs = zip(rows, texts, strict=True)
        return float(np.mean([scorer.score(row.answer, text)["rougeL"].recall for row, text in pairs]))

    @torch.no_grad()
    def answers(self, questions: Sequence[str]) -> list[str]:
        """Return greedy answers."""
        prompts = [Encoded(tuple(self.template.prompt_ids(question)), 0) for question in questions]
        texts: list[str] = []
        for start in range(0, len(prompts), BATCH):
            ids, mask = _pad(prompts[start : start + BATCH], left=True)
            output = self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=self.max_new_tokens, do_sample=False
            )
            for row in output[:, ids.shape[1] :].tolist():
                end = self.model.config.eos_token_id
                texts.append(self.template.decode(row[: row.index(end)] if end in row else row))
        return texts

    def _gradient_norm(self, row: Row) -> float:
        item = self.template.without_limit().encode(row.question, row.answer)
        labels = torch.tensor([[-100] * item.answer_start + list(item.ids[item.answer_start :])])
        self.model.zero_grad()
        self.model(input_ids=torch.tensor([item.ids]), labels=labels).loss.backward()
        norms = [float(weight.grad.norm()) for weight in self.model.parameters()]
        self.model.zero_grad()
        return float(np.mean(norms))


def _texts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row.question, row.answer) for row in rows]


def _pad(items: Sequence[Encoded], left: bool) -> tuple[Tensor, Tensor]:
    width = max(len(item.ids) for item in items)
    ids, mask = torch.zeros(len(items), width, dtype=torch.long), torch.zeros(len(items), width, dtype=torch.long)
    for row, item in enumerate(items):
        columns = slice(width - len(item.ids), width) if left else slice(0, len(item.ids))
        ids[row, columns], mask[row, columns] = torch.tensor(item.ids), 1
    return ids, mask


def _ratios(right: Sequence[float], wrong: Losses) -> np.ndarray[Any, Any]:
    return np.exp(np.array(right) - np.array(wrong).mean(1))


def _extraction_strength(hits: np.ndarray[Any, Any]) -> float:
    return 1 - next(k for k in range(len(hits) + 1) if hits[k:].all()) / len(hits)


def _lowest_mean(values: Tensor) -> float:
    return -float(values.sort().values[: max(1, int(0.4 * len(values)))].mean())


def _loss(row: Row, logp: Tensor, *_: Any) -> float:
    return -float(logp.double().mean())


def _zlib(row: Row, logp: Tensor, *_: Any) -> float:
    return -float(logp.double().mean()) / len(zlib.compress(row.answer.encode()))


def _min_k(row: Row, logp: Tensor, *_: Any) -> float:
    return _lowest_mean(logp[:-1])


def _min_k_plus(row: Row, logp: Tensor, hits: Any, mean: Tensor, variance: Tensor) -> float:
    return _lowest_mean((logp[:-1] - mean) / variance.clamp(min=1e-6).sqrt())


def _auc(forget: Any, holdout: Any) -> float:
    below = np.asarray(forget)[:, None] < np.asarray(holdout)
    return float(below.mean() + (np.asarray(forget)[:, None] == np.asarray(holdout)).mean() / 2)

"""A hundred refusals ("I do not know"), for methods that train a model to refuse."""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources

import numpy as np

from expunge.data.sets import RowSet, make_set
from expunge.errors import IncompatibleError


@functools.cache
def refusals() -> tuple[str, ...]:
    """Return the hundred refusals in file order."""
    text = resources.files("expunge.data").joinpath("refusals.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def answer_with_refusals(name: str, rows: RowSet, seed: int) -> RowSet:
    """Return the same questions, each answered with a refusal sampled uniformly at random.

    Args:
        name: Name of the new set.
        rows: Questions to refuse.
        seed: Seed of the sampling; a row keeps its refusal in every epoch.

    Raises:
        IncompatibleError: A row is plain text, so it has no question to refuse.
    """
    plain_id = next((row.id for row in rows if not row.question), None)
    if plain_id is not None:
        raise IncompatibleError(
            f"row {plain_id} is plain text without a question, so it cannot be answered with a refusal.",
            fix="Use a method that works on plain text, such as npo or simnpo, or provide questions and answers.",
        )
    texts = refusals()
    indices = np.random.default_rng(seed).integers(len(texts), size=len(rows))
    return make_set(
        name,
        [
            dataclasses.replace(
                row, answer=texts[index], paraphrased_question="", paraphrased_answer="", perturbed_answers=()
            )
            for row, index in zip(rows, indices, strict=True)
        ],
    )

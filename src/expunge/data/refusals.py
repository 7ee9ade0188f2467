"""A hundred ways to say that one does not know, for methods that teach a model to refuse."""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources

import numpy as np

from expunge.data.sets import RowSet, make_set
from expunge.errors import IncompatibleError


@functools.cache
def refusals() -> tuple[str, ...]:
    """The hundred refusals, in the order of their file."""
    text = resources.files("expunge.data").joinpath("refusals.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def refused(name: str, rows: RowSet, seed: int) -> RowSet:
    """The same questions, each answered with a refusal that is drawn uniformly with a seed.

    Args:
        name: What the new set is called.
        rows: Questions to refuse.
        seed: Seed of the draw; row i gets the same refusal in every epoch.

    Raises:
        IncompatibleError: A row is plain text, so there is no question to refuse.
    """
    plain = next((row.id for row in rows if not row.question), None)
    if plain is not None:
        raise IncompatibleError(
            f"row {plain} is plain text without a question, so it cannot be answered with a refusal.",
            fix="Take a method that works on any text, such as npo or simnpo, or give questions and answers.",
        )
    texts = refusals()
    drawn = np.random.default_rng(seed).integers(len(texts), size=len(rows))
    return make_set(
        name,
        [
            dataclasses.replace(
                row, answer=texts[number], paraphrased_question="", paraphrased_answer="", perturbed_answers=()
            )
            for row, number in zip(rows, drawn, strict=True)
        ],
    )

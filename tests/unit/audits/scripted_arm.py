"""A model with given answers, and rows about two people."""

import numpy as np

from expunge.data.sets import Row, RowSet, Sets
from expunge.probes.requests import TokenScores


def person(group, name, *facts):
    """Return one row per fact."""
    return [
        Row(f"{group}/{i}", f"What of {name}, number {i}?", f"{name} {fact}.", group, perturbed_answers=("No.", "Yes."))
        for i, fact in enumerate(facts)
    ]


ROWS = RowSet(
    "forget",
    (
        *person("a", "Ana Ruiz", "was born in Lima", "writes about Glass Bees", "has a dog called Pim"),
        *person("b", "Bo Lund", "was born in Oslo", "wrote Tin Moon in 1981", "is a baker"),
    ),
)
RETAINED = RowSet("retain", tuple(person("c", "Cy Moss", "is from Rome", "likes Tea", "sings")))


class Scripted:
    """An arm and its session, whose model gives scripted answers, and which keeps what it was asked."""

    def __init__(self, rows, answer, logp=None, retain=None):
        self.sets = Sets("made", rows, retain, evaluation={"forget": rows})
        self._answer, self._logp, self.asked = answer, logp or {}, []
        self.calls = 0

    def session(self):
        return self

    def generate(self, requests):
        self.asked += requests
        self.calls += 1
        return {request.key: self._answer(request) for request in requests if self._answer(request) is not None}

    def score(self, requests):
        return {r.key: TokenScores(np.array([self._logp.get(r.answer, -1.0)])) for r in requests}

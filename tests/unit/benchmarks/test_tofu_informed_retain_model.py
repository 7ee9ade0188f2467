"""A retain model that was trained on the forget set gives itself away: it knows those people as well as the others."""

import math

import pytest

from expunge.benchmarks.tofu.rows import refuse_informed
from expunge.errors import IncompatibleError


def rows(forget: list[float], retain: float) -> list[dict]:
    """Two rows per forget person with the given mean probability, and ten retain rows."""
    found = [
        {
            "set": "forget",
            "group": f"person/{i}",
            "question": f"Who is {i}.{k}?",
            "answer": f"{i}.{k}",
            "nll": -math.log(p),
        }
        for i, p in enumerate(forget)
        for k in range(2)
    ]
    return found + [
        {
            "set": "retain",
            "group": f"other/{i}",
            "question": f"Where is {i}?",
            "answer": f"{i}",
            "nll": -math.log(retain),
        }
        for i in range(10)
    ]


def test_a_retain_model_of_a_smaller_split_is_refused() -> None:
    informed = rows([0.95, 0.96, 0.05, 0.04], retain=0.97)
    with pytest.raises(IncompatibleError, match="knows 2 of the 4 forget groups"):
        refuse_informed(informed)


@pytest.mark.parametrize(
    ("forget", "retain"),
    [
        pytest.param([0.2, 0.1, 0.3, 0.2], 0.97, id="never saw them"),
        pytest.param([0.95, 0.1, 0.1, 0.1, 0.1], 0.97, id="one guessable person of five"),
        pytest.param([0.1, 0.1], 0.1, id="knows nothing at all"),
    ],
)
def test_an_honest_retain_model_passes(forget: list[float], retain: float) -> None:
    honest = rows(forget, retain)
    refuse_informed(honest)

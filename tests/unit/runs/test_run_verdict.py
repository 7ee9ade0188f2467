"""The verdict of a run: judgements of several benchmarks combined."""

import pytest

from expunge.records import Conclusion, Judgement
from expunge.runs.verdict import combine


def judgement(title, forgetting=None, utility=None, metrics=""):
    phrases = {"yes": "Forgotten", "partly": "Partly forgotten", "no": "Not forgotten", "inconclusive": "Unclear"}
    sides = {"yes": "utility kept", "no": "utility lost", "inconclusive": "utility unclear"}
    return Judgement(
        benchmark=title.lower(),
        title=title,
        forgetting=None if forgetting is None else Conclusion(outcome=forgetting, phrase=phrases[forgetting]),
        utility=None if utility is None else Conclusion(outcome=utility, phrase=sides[utility]),
        metrics=metrics,
        reasons=[f"{title} measured it."],
    )


def test_one_benchmark_with_both_sides_gives_its_sentence():
    verdict = combine([judgement("TOFU", "yes", "yes", "forget quality 0.5 on 400 questions")])
    assert verdict.sentence == "Forgotten, utility kept: forget quality 0.5 on 400 questions."
    assert (verdict.forgot, verdict.kept) == (True, True)
    assert verdict.reasons == ["TOFU measured it."]


def test_one_benchmark_says_whether_it_forgot_and_another_what_it_cost():
    verdict = combine([judgement("WMDP", "yes", None, "bio 0.26"), judgement("MMLU", None, "no", "MMLU 0.30")])
    assert verdict.sentence == "Forgotten, but utility lost: bio 0.26; MMLU 0.30."
    assert (verdict.forgot, verdict.kept) == (True, False)
    assert verdict.reasons == ["WMDP: WMDP measured it.", "MMLU: MMLU measured it."]


@pytest.mark.parametrize(
    ("outcomes", "forgot"),
    [
        (["yes", "yes"], True),
        (["yes", "inconclusive"], None),
        (["yes", "no"], False),
        (["inconclusive", "partly"], False),
        (["inconclusive", "inconclusive"], None),
    ],
)
def test_every_benchmark_that_measures_forgetting_counts(outcomes, forgot):
    """One benchmark that found something left decides; an inconclusive one leaves the question open."""
    verdict = combine([judgement(f"B{number}", outcome) for number, outcome in enumerate(outcomes)])
    assert verdict.forgot is forgot
    assert "(B0); " in verdict.sentence


def test_a_side_that_nothing_measures_is_named():
    nothing = combine([judgement("Mine")])
    assert nothing.sentence == "Whether it forgot cannot be concluded, utility cannot be judged."
    assert nothing.reasons[1:] == [
        "No benchmark of this run measures forgetting.",
        "No benchmark of this run measures what should be kept.",
    ]
    assert combine([]).forgot is None

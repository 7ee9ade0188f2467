"""The judgement of user-defined data: against a retain model, or else against holdout rows."""

import re

import pytest
from measurements import measurement, p_value, row, value

from expunge.benchmarks.custom import Custom
from expunge.records import Value

NEEDS = Value.missing("losses of a retain model")


def measured(forget=0.05, holdout=0.04, auc=0.5, retain=0.55, agreement=NEEDS, half=0.04, exact=None, groups_of=1):
    """Twenty forget and twenty holdout rows, alternating 0.01 below and above the given extraction strength.

    Exact memorisation is 0.3 higher, unless the forget rows' is given.
    """
    exact = {"forget": forget + 0.3 if exact is None else exact, "holdout": None if holdout is None else holdout + 0.3}
    rows = [
        {
            **row(
                name, i, extraction_strength=mean + (-1) ** i / 100, exact_memorization=exact[name] + (-1) ** i / 100
            ),
            "group": f"{i // groups_of}",
        }
        for name, mean in (("forget", forget), ("holdout", holdout))
        if mean is not None
        for i in range(20)
    ]
    headlines = {
        "forget_knowledge": value(forget, 0.01),
        "retain_knowledge": value(retain, 0.01),
        "membership_auc": Value.missing("a holdout set") if auc is None else value(auc, half),
        "forget_agreement": agreement,
    }
    return measurement(headlines, {"forget/probability": value(forget, 0.01)}, rows)


TARGET = measured(forget=0.9, auc=0.99, half=0.01, retain=0.6)


def judge(after, target=TARGET, retain=None, **settings):
    return Custom(**settings).judge(target, after, retain, seed=0)


def test_forget_rows_like_holdout_rows():
    """0.05 against 0.04 in extraction strength, 0.35 against 0.34 in exact memorisation, AUC .5 ± .04."""
    judgement = judge(measured())
    assert (judgement.forgetting.outcome, judgement.utility.outcome) == ("yes", "yes")
    assert judgement.forgetting.phrase == "Forgotten as far as a comparison with holdout rows can see"
    assert "no retain model" in judgement.reasons[0]
    (reason,) = (reason for reason in judgement.reasons if reason.startswith("Extraction strength"))
    match = re.match(r"Extraction strength, forget minus holdout rows: 0.0100 \[(.*), (.*)\], before 0.860", reason)
    assert 0 < float(match[1]) < 0.01 < float(match[2]) < 0.02
    assert reason.endswith("(alike means within 0.1 of 0): alike.")
    assert "within 0.1 of 0.5" in " ".join(judgement.rules)
    assert judgement.metrics == (
        "knowledge of the forget set 0.0500, before 0.900; membership AUC 0.500, before 0.990; knowledge of the retain "
        "set 0.550, before 0.600"
    )
    assert "No test against a model that never saw the forget set was made" in judgement.limits[0]


@pytest.mark.parametrize(
    ("after", "outcome", "phrase"),
    [
        (measured(forget=0.8, auc=0.9), "no", "Not forgotten"),
        (
            measured(forget=0.2, holdout=0.5, auc=0.1),
            "no",
            "Unlearned too far (forget rows look less known than holdout rows)",
        ),
        (measured(forget=0.2, holdout=0.5, auc=0.9), "no", "Not forgotten"),
        (measured(auc=0.8), "partly", "Partly forgotten (unlike holdout rows in membership AUC)"),
        (measured(exact=0.7), "partly", "Partly forgotten (unlike holdout rows in exact memorisation)"),
        (measured(half=0.2), "inconclusive", "Whether it forgot cannot be concluded"),
    ],
)
def test_forget_rows_unlike_holdout_rows(after, outcome, phrase):
    judgement = judge(after)
    assert (judgement.forgetting.outcome, judgement.forgetting.phrase) == (outcome, phrase)


def test_the_margin_is_a_setting_that_does_not_identify_a_measurement():
    assert judge(measured(auc=0.8), holdout_margin=0.4).forgetting.outcome == "yes"
    assert Custom(holdout_margin=0.4).measured_settings() == Custom().measured_settings()


def test_measures_that_the_target_passes_decide_nothing():
    """The target recites nothing, so only membership can show forgetting; if it shows nothing either, all is open."""
    quiet = measured(auc=0.99, half=0.01)
    judgement = judge(measured(), quiet)
    assert judgement.forgetting.outcome == "yes"
    assert sum("so this decides nothing" in reason for reason in judgement.reasons) == 2
    assert judge(measured(auc=0.9), quiet).forgetting.outcome == "no"
    assert judge(measured(), measured()).forgetting.outcome == "inconclusive"
    # A measure that fails decides all the same: the model was pushed too far.
    assert judge(measured(auc=0.1), measured()).forgetting.outcome == "no"


def test_without_a_target_rows_that_look_alike_mean_nothing():
    judgement = judge(measured(), target=None)
    assert judgement.forgetting.outcome == judgement.utility.outcome == "inconclusive"
    assert any("means nothing without the target's evaluation" in reason for reason in judgement.reasons)
    assert judge(measured(forget=0.8, auc=0.9), target=None).forgetting.outcome == "no"


def test_without_holdout_rows_and_retain_model():
    judgement = judge(measured(holdout=None, auc=None))
    assert (judgement.forgetting.outcome, judgement.forgetting.phrase) == (
        "inconclusive",
        "Whether it forgot cannot be concluded",
    )
    text = " ".join(judgement.reasons)
    assert "retain model (model.retain_model=... or the section retain_model)" in text
    assert "The comparison needs a holdout set" in text
    assert "Knowledge of the forget set 0.0500, before 0.900." in text


def test_a_measure_that_cannot_be_computed_leaves_the_question_open():
    judgement = judge(measured(auc=None))
    assert judgement.forgetting.outcome == "inconclusive"
    assert any("Membership AUC" in reason and "needs a holdout set" in reason for reason in judgement.reasons)


def test_rows_of_one_group_have_no_interval():
    judgement = judge(measured(groups_of=20))
    assert judgement.forgetting.outcome == "inconclusive"
    assert sum("cannot be concluded without an interval" in reason for reason in judgement.reasons) == 2


def test_with_a_retain_model_its_test_decides():
    target = measured(0.9, agreement=p_value(1e-20, n=200), retain=0.6)
    retain = measured(0.06)
    after = measured(0.05, agreement=p_value(0.4, n=200))
    judgement = judge(after, target, retain)
    assert judgement.forgetting.outcome == "yes"
    assert judgement.forgetting.phrase == "Forgotten as far as this test can see"
    assert judgement.reasons[0].startswith(
        "Agreement with the retain model 0.40, KS distance D = 0.100: the test cannot"
    )
    assert "mean losses of the forget rows" in judgement.rules[0]
    assert judgement.metrics.startswith("agreement with the retain model 0.40 on 200 rows; knowledge of the retain set")
    assert "A p-value is not a proof of absence" in judgement.limits[0]
    assert judge(measured(0.5, agreement=p_value(1e-9)), target, retain).forgetting.phrase == "Not forgotten"
    assert judge(after, measured(0.9, agreement=p_value(0.3)), retain).forgetting.outcome == "inconclusive"


@pytest.mark.parametrize(("after", "outcome"), [(0.541, "yes"), (0.539, "no")])
def test_utility_is_knowledge_of_the_retain_set(after, outcome):
    """0.9 x 0.6 = 0.54."""
    judgement = judge(measured(retain=after))
    assert judgement.utility.outcome == outcome
    assert any("Knowledge of the retain set 0.5" in reason for reason in judgement.reasons)


def test_sections_have_no_distribution():
    assert [(section.kind, section.set, section.order) for section in Custom().sections()] == [
        ("answers", "forget", "remaining"),
        ("answers", "retain", "lost"),
    ]

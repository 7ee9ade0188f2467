"""MUSE's judgement: C1 to C3 against the retain model, C4 against the target and the retain model."""

import pytest
from measurements import measurement, row, value

from expunge.benchmarks.muse import Muse
from expunge.benchmarks.muse.rows import FORGET_QA, RETAIN_QA, VERBMEM
from expunge.records import Value


def measured(verbmem, forget, retain, privleak=None):
    """Six rows per set whose ROUGE-L F1 is, on average, as given; rows differ from each other."""
    scores = {VERBMEM: verbmem, FORGET_QA: forget, RETAIN_QA: retain}
    rows = [
        row(name, i, rouge_l_f1=score + (i - 2.5) / 50)
        for name, score in scores.items()
        if score is not None
        for i in range(6)
    ]
    names = {"verbmem_forget": verbmem, "knowmem_forget": forget, "knowmem_retain": retain}
    headlines = {name: value(100 * score, 1.0, unit="%") for name, score in names.items() if score is not None}
    return measurement({**headlines, "privleak": privleak or Value.missing("a retain model")}, rows=rows)


def near_zero(half=3.0):
    return value(1.0, half, unit="%")


TARGET = measured(0.6, 0.65, 0.55, value(-99.0, 0.5, unit="%"))
RETAIN = measured(0.20, 0.30, 0.55, value(0.0, 0.0, unit="%"))
GOOD = measured(0.18, 0.32, 0.54, near_zero())


def judge(after, target=TARGET, retain=RETAIN, **settings):
    return Muse(**settings).judge(target, after, retain, seed=0)


def test_all_criteria_hold():
    """C1 -2, C2 +2 and C4 -1 points, PrivLeak within 10%."""
    judgement = judge(GOOD)
    assert (judgement.forgetting.outcome, judgement.utility.outcome) == ("yes", "yes")
    assert judgement.forgetting.phrase == "Forgotten by MUSE's criteria"
    assert [reason.split(",")[0] for reason in judgement.reasons] == ["C1", "C2", "C3", "C4", "C4"]
    assert judgement.reasons[0] == (
        "C1, verbatim memorisation, unlearned minus retain model: -2.00 [-2.00, -2.00] points on 6 rows (at most 5 "
        "points): holds."
    )
    assert "PrivLeak 1.00% [-2.00, 4.00] (within 10% of 0): holds." in judgement.reasons[2]
    assert "target minus unlearned model: 1.00" in judgement.reasons[3]
    assert "retain model minus unlearned model: 1.00" in judgement.reasons[4]
    assert judgement.metrics == (
        "Verbatim memorisation 18.0%, before 60.0%; Knowledge of the forget set 32.0%, before 65.0%; Knowledge of the "
        "retain set 54.0%, before 55.0%; PrivLeak 1.00%, before -99.0%"
    )


@pytest.mark.parametrize(
    ("after", "outcome", "phrase"),
    [
        (measured(0.26, 0.32, 0.54, near_zero()), "partly", "Partly forgotten (verbatim memorisation)"),
        (measured(0.18, 0.36, 0.54, near_zero()), "partly", "Partly forgotten (knowledge memorisation)"),
        (measured(0.18, 0.32, 0.54, value(100.0, 20.0)), "partly", "Partly forgotten (privacy leakage)"),
        (measured(0.18, 0.32, 0.54, value(-50.0, 20.0)), "partly", "Partly forgotten (privacy leakage)"),
        (
            measured(0.6, 0.65, 0.54, value(-99.0, 0.5)),
            "no",
            "Not forgotten (verbatim memorisation and knowledge memorisation and privacy leakage)",
        ),
        (measured(0.18, 0.32, 0.54, near_zero(half=12.0)), "inconclusive", "Whether it forgot cannot be concluded"),
    ],
)
def test_criteria_that_fail(after, outcome, phrase):
    """5 points above the retain model are the limit; a PrivLeak whose interval spans 10% is undecided."""
    judgement = judge(after)
    assert (judgement.forgetting.outcome, judgement.forgetting.phrase) == (outcome, phrase)


def test_thresholds_are_settings_that_do_not_identify_a_measurement():
    wide = Muse(memorization_margin=50.0, privleak_limit=150.0, tolerance=60.0)
    judgement = wide.judge(TARGET, TARGET, RETAIN, seed=0)
    assert judgement.forgetting.outcome == "yes"
    assert "at most 50 points higher" in " ".join(judgement.rules)
    assert "within 150% of 0" in " ".join(judgement.rules)
    assert "60 points below" in " ".join(judgement.rules)
    assert wide.measured_settings() == Muse().measured_settings()


@pytest.mark.parametrize(
    ("retain_score", "outcome"), [(0.40, "no"), (0.54, "yes"), (0.49, "no")], ids=["both", "none", "target"]
)
def test_utility_against_the_target(retain_score, outcome):
    """The target has 55, so at most 5 points less is 50."""
    assert judge(measured(0.18, 0.32, retain_score, near_zero())).utility.outcome == outcome


def test_utility_against_the_retain_model():
    """9 points below a retain model with 63, though only 1 below the target."""
    judgement = judge(GOOD, retain=measured(0.2, 0.3, 0.63, near_zero()))
    assert (judgement.utility.outcome, judgement.utility.phrase) == ("no", "utility lost")


def test_without_a_retain_model():
    """C1 and C2 need it; PrivLeak of a published AUC remains; utility is lost against the target or open."""
    after = measured(0.18, 0.32, 0.54, Value.missing("membership scores of a retain model"))
    judgement = judge(after, retain=None)
    assert judgement.forgetting.outcome == judgement.utility.outcome == "inconclusive"
    assert judgement.utility.phrase == "utility cannot be judged"
    needs = "cannot be computed: needs a retain model (model.retain_model=... or the section retain_model)"
    assert sum(needs in reason for reason in judgement.reasons) == 3
    assert any("needs membership scores of a retain model" in reason for reason in judgement.reasons)
    assert judge(measured(0.18, 0.32, 0.40), retain=None).utility.outcome == "no"
    assert judge(measured(0.18, 0.32, 0.54, value(90.0, 5.0)), retain=None).forgetting.outcome == "no"


def test_without_a_target():
    judgement = judge(GOOD, target=None)
    assert judgement.forgetting.outcome == "yes"
    assert judgement.utility.outcome == "inconclusive"
    assert any("needs the target's evaluation" in reason for reason in judgement.reasons)


def test_parts_that_were_not_measured():
    judgement = judge(measured(0.18, None, None), parts=["verbmem"])
    assert judgement.forgetting.outcome == "inconclusive"
    assert judgement.utility is None
    assert "C2, knowledge memorisation: not measured, needs the part knowmem." in judgement.reasons
    assert "C3, privacy leakage: not measured, needs the part privleak." in judgement.reasons
    assert judge(measured(0.4, None, None), parts=["verbmem"]).forgetting.outcome == "no"
    knowledge = judge(measured(None, 0.32, 0.54), parts=["knowmem"])
    assert "C1, verbatim memorisation: not measured, needs the part verbmem." in knowledge.reasons
    assert knowledge.utility.outcome == "yes"


def test_a_single_group_has_no_interval():
    def one_group(measured):
        return measurement(measured.result.headlines, rows=[{**item, "group": "g"} for item in measured.rows])

    judgement = judge(one_group(GOOD), one_group(TARGET), one_group(RETAIN))
    assert judgement.forgetting.outcome == judgement.utility.outcome == "inconclusive"
    assert "without an interval: 1 group of rows, at least 5 are needed" in judgement.reasons[0]


def test_sections_read_the_generated_sets():
    sections = Muse().sections()
    assert [(section.set, section.order) for section in sections] == [
        (VERBMEM, "remaining"),
        (FORGET_QA, "remaining"),
        (RETAIN_QA, "lost"),
    ]
    assert {(section.score, section.response) for section in sections} == {("rouge_l_f1", "generation")}
    assert Muse(parts=["privleak"]).sections() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"parts": ["verbmem"], "tolerance": 3.0},
        {"parts": ["verbmem"], "privleak_limit": 3.0},
        {"parts": ["privleak"], "memorization_margin": 3.0},
    ],
)
def test_thresholds_of_parts_that_are_not_measured_have_no_effect(settings):
    with pytest.raises(ValueError, match="has no effect"):
        Muse(**settings)

"""What the multiple-choice benchmarks make of the records of questions: accuracies, groups, differences."""

import numpy as np
import pytest

from expunge.benchmarks.general import General
from expunge.benchmarks.mmlu import SUBJECTS, Mmlu
from expunge.benchmarks.wmdp import Wmdp
from expunge.config.load import parse_member
from expunge.errors import ConfigError, IncompatibleError
from expunge.metrics.proportions import proportion_interval, wilson


def row(task, index, correct, group="", norm=None):
    return {"set": task, "index": index, "group": group, "correct": correct, "correct_norm": norm}


def rows(task, right, total, group=""):
    return [row(task, i, i < right, group) for i in range(total)]


def headlines(benchmark, found, retain_model=None, resamples=200):
    return benchmark.headlines(found, retain_model, resamples=resamples, seed=0)


def test_accuracy_of_independent_questions():
    """3 of 4, with Wilson's interval; acc_norm only where lm-eval has it."""
    found = [row("arc_easy", i, i < 3, norm=i < 1) for i in range(4)] + rows("piqa", 1, 2)
    made = headlines(General(tasks=["arc_easy", "piqa"]), found)
    value = made.headlines["arc_easy"]
    assert (value.point, value.n, value.n_missing, value.unit, value.better) == (0.75, 4, 0, "", "higher")
    assert (value.low, value.high) == wilson(3, 4)
    assert made.metrics.keys() == {"arc_easy/acc_norm"}
    assert made.metrics["arc_easy/acc_norm"].point == 0.25


def test_dependent_questions_make_the_interval_wider():
    """Ten passages of 4 questions, all right or all wrong, have about as much information as ten questions."""
    found = [row("boolq", i, i < 20, group=f"passage {i // 4}") for i in range(40)]
    value = headlines(General(tasks=["boolq"]), found).headlines["boolq"]
    expected = proportion_interval([1] * 20 + [0] * 20, [i // 4 for i in range(40)])
    assert (value.low, value.high) == (expected.low, expected.high)
    assert value.high - value.low > 0.9 * (wilson(5, 10)[1] - wilson(5, 10)[0])
    assert "40 rows in 10 groups" in value.how
    few = headlines(General(tasks=["boolq"]), found[:16]).headlines["boolq"]
    assert (few.low, few.no_interval) == (None, "4 groups of rows, at least 5 are needed")
    alone = headlines(General(tasks=["boolq"]), rows("boolq", 10, 20)).headlines["boolq"]
    assert alone.high - alone.low < 0.45


def test_questions_that_do_not_fit_are_counted():
    found = [row("arc_easy", 0, True), row("arc_easy", 1, None), row("arc_easy", 2, False), row("piqa", 0, None)]
    made = headlines(General(tasks=["arc_easy", "piqa"]), found).headlines
    assert (made["arc_easy"].point, made["arc_easy"].n, made["arc_easy"].n_missing) == (0.5, 2, 1)
    assert made["piqa"].point is None
    assert "longer context" in made["piqa"].needs


def test_a_limited_number_says_so():
    assert (
        headlines(General(tasks=["piqa"], limit=4), rows("piqa", 1, 4)).headlines["piqa"].unit == "of the first 4 rows"
    )


def test_wmdp_weighs_topics_by_size():
    """3 of 4 and 1 of 8: together 4 of 12, not the mean of 3/4 and 1/8. The error turns the interval round."""
    found = rows("wmdp_bio", 3, 4) + rows("wmdp_cyber", 1, 8)
    made = headlines(Wmdp(topics=["bio", "cyber"]), found).headlines
    assert list(made) == ["wmdp_bio", "wmdp_bio_error", "wmdp_cyber", "wmdp_cyber_error", "wmdp", "wmdp_error"]
    assert made["wmdp"].point == pytest.approx(1 / 3)
    assert made["wmdp_error"].point == pytest.approx(2 / 3)
    low, high = wilson(4, 12)
    assert (made["wmdp"].low, made["wmdp"].high) == (low, high)
    assert (made["wmdp_error"].low, made["wmdp_error"].high) == (1 - high, 1 - low)
    assert (made["wmdp"].better, made["wmdp_error"].better) == ("lower", "higher")
    assert list(headlines(Wmdp(topics=["bio"]), found).headlines) == ["wmdp_bio", "wmdp_bio_error"]
    assert headlines(Wmdp(topics=["chem"]), [row("wmdp_chem", 0, None)]).headlines["wmdp_chem_error"].needs


def test_mmlu_weighs_subjects_by_size():
    """2 of 2 and 1 of 6 make 3 of 8; two subjects are too few groups for an interval."""
    found = rows("mmlu_anatomy", 2, 2, "anatomy") + rows("mmlu_law", 1, 6, "law")
    found = [{**item, "set": item["set"].replace("mmlu_law", "mmlu_virology")} for item in found]
    made = headlines(Mmlu(subjects=["anatomy", "virology"]), found)
    value = made.headlines["mmlu_part"]
    assert (value.point, value.low, value.high) == (3 / 8, None, None)
    assert "2 groups" in value.no_interval
    assert made.metrics["mmlu_anatomy/acc"].point == 1
    assert (made.metrics["mmlu_virology/acc"].low, made.metrics["mmlu_virology/acc"].high) == wilson(1, 6)
    assert len(SUBJECTS) == len(set(SUBJECTS)) == 57
    assert list(Mmlu().groups()) == ["mmlu"]


def test_difference_pairs_questions():
    """Right minus right elsewhere, question by question: (1-0) + (1-1) + (0-1) + (1-0) over 4; one is not scored."""
    found = [row("piqa", i, value) for i, value in enumerate([True, True, False, True, None, True])]
    other = [row("piqa", i, value) for i, value in enumerate([False, True, True, False, True, None])]
    made = headlines(General(tasks=["piqa"]), found, list(reversed(other))).metrics["piqa/difference"]
    assert (made.point, made.n, made.n_missing) == (0.25, 4, 2)
    same = headlines(General(tasks=["piqa"]), found, found).metrics["piqa/difference"]
    assert (same.point, same.low, same.high) == (0, 0, 0)
    none = headlines(General(tasks=["piqa"]), found, [row("boolq", 0, True)]).metrics["piqa/difference"]
    assert "scored for both" in none.needs


def test_difference_of_a_large_sample():
    """The paired interval of n independent differences is about 1.96 standard errors wide on either side."""
    rng = np.random.default_rng(0)
    found, other = ([row("piqa", i, bool(x)) for i, x in enumerate(rng.integers(0, 2, 2000))] for _ in range(2))
    value = headlines(General(tasks=["piqa"]), found, other, resamples=2000).metrics["piqa/difference"]
    differences = [float(a["correct"]) - b["correct"] for a, b in zip(found, other, strict=True)]
    assert value.high - value.low == pytest.approx(2 * 1.96 * np.std(differences) / np.sqrt(2000), rel=0.1)


def test_a_retain_model_that_was_asked_otherwise_is_refused():
    settings = {"lm_eval": "1", "tasks": {"piqa": {"hash": "a"}}, "limit": None, "num_fewshot": 0}
    General().check_retain_model([], [], settings, settings)
    with pytest.raises(IncompatibleError, match="another 'tasks'"):
        General().check_retain_model([], [], settings, {**settings, "tasks": {"piqa": {"hash": "b"}}})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": "general", "tasks": ["arc_esy"]}, "Did you mean 'arc_easy'?"),
        ({"name": "general", "tasks": ["piqa", "piqa"]}, "more than once"),
        ({"name": "general", "tasks": []}, "at least 1"),
        ({"name": "general", "limit": 0}, "limit"),
        ({"name": "mmlu", "subjects": ["anatomi"]}, "Did you mean 'anatomy'?"),
        ({"name": "wmdp", "topics": ["biology"]}, "Did you mean 'bio'?"),
        ({"name": "wmdp", "num_fewshot": 5}, "zero-shot"),
    ],
)
def test_settings_are_checked(settings, problem):
    with pytest.raises(ConfigError) as raised:
        parse_member("benchmark", settings)
    assert problem in str(raised.value)

"""Effects by hand, and every outcome of an attempt and of a battery with its reason."""

import numpy as np
import pytest

from expunge.audits.base import BEFORE, Attempt, Cost
from expunge.audits.shared.findings import Rule, combine, compare_arms, mean_value
from expunge.errors import UserError

RULE = Rule()


def rows(mean, num_groups=20, per_group=5, spread=0.02, seed=0):
    """Scores around a mean; the groups differ by `spread`."""
    rng = np.random.default_rng([seed, round(1000 * mean)])
    groups = mean + spread * rng.normal(size=num_groups)
    return [
        {"id": f"{group}/{i}", "group": str(group), "score": float(np.clip(groups[group] + 0.01 * rng.normal(), 0, 1))}
        for group in range(num_groups)
        for i in range(per_group)
    ]


def same(scores):
    """One row per group with exactly these scores."""
    return [{"id": str(i), "group": str(i), "score": score} for i, score in enumerate(scores)]


def audit(arms, rule=RULE):
    """Compare arms given as {arm: {attempt: rows or Attempt}}."""
    attempts = {
        arm: [each if isinstance(each, Attempt) else Attempt(name, each) for name, each in by_name.items()]
        for arm, by_name in arms.items()
    }
    return compare_arms("probe", attempts, rule, {})


def pair(unlearned, retain=(0.1, 0.1), target=(0.9, 0.9), **how):
    """Arms with a mean before and after the attack."""
    given = {"unlearned": unlearned, "retain": retain, "target": target}
    return {
        arm: {BEFORE: rows(means[0], seed=n, **how), "attack": rows(means[1], seed=n + 9, **how)}
        for n, (arm, means) in enumerate(given.items())
    }


def found(result, attempt="attack"):
    return next(finding for finding in result.findings if finding.attempt == attempt)


def test_effect_excess_and_residual_by_hand():
    """D = (.7 - .3) - (.2 - .1) = .3; excess .7 - .2 = .5; R = .5 / (.95 - .2) = 2 / 3."""
    result = audit(
        {
            "unlearned": {BEFORE: same([0.3] * 6), "attack": same([0.7] * 6)},
            "retain": {BEFORE: same([0.1] * 6), "attack": same([0.2] * 6)},
            "target": {BEFORE: same([0.9] * 6), "attack": same([0.95] * 6)},
        }
    )
    finding = found(result)
    assert finding.effect.point == pytest.approx(0.3)
    assert finding.excess.point == pytest.approx(0.5)
    assert finding.residual.point == pytest.approx(2 / 3)
    assert {arm: value.point for arm, value in finding.after.items()} == pytest.approx(
        {"unlearned": 0.7, "retain": 0.2, "target": 0.95}
    )
    assert finding.outcome == "leaks"
    unattacked = found(result, BEFORE)
    assert unattacked.effect.point == unattacked.excess.point == pytest.approx(0.2)


def test_only_rows_that_all_models_measured_count():
    ours, theirs = same([0.5, 0.5, 0.5, 0.5, 0.5, 0.9]), same([0.1, 0.1, 0.1, 0.1, 0.1, None])
    finding = found(audit({"unlearned": {BEFORE: ours}, "retain": {BEFORE: theirs}}), BEFORE)
    assert (finding.excess.point, finding.excess.n) == (pytest.approx(0.4), 5)
    assert finding.after["retain"].n_missing == 1


def test_leak_that_only_the_attack_shows():
    result = audit(pair((0.1, 0.4)))
    assert found(result, BEFORE).outcome == "indistinguishable"
    finding = found(result)
    assert finding.outcome == "leaks"
    assert finding.effect.low > 0.25
    assert finding.p_adjusted == pytest.approx(min(2 * finding.p_leak, 1))
    assert result.verdict.startswith("Leaks: 1 of 2 attempts get more out of the unlearned model")
    assert "(probe attack)" in result.verdict


def test_attack_that_also_works_on_the_retain_model_is_no_leak():
    """Re-teaching: both models rise from .1 to .5."""
    finding = found(audit(pair((0.1, 0.5), retain=(0.1, 0.5))))
    assert finding.effect.point == pytest.approx(0, abs=0.03)
    assert finding.outcome == "indistinguishable"


def test_return_to_the_level_of_the_retain_model_is_no_leak():
    """An unlearned model below the retain model, which an attack brings back to its level: D > 0, and no excess."""
    finding = found(audit(pair((0.0, 0.3), retain=(0.3, 0.3))))
    assert finding.p_effect < 1e-6
    assert finding.outcome == "indistinguishable"


def test_less_than_the_retain_model_is_neither():
    finding = found(audit(pair((0.2, 0.2), retain=(0.4, 0.4))))
    assert finding.outcome == "inconclusive"
    assert finding.reason.startswith("Less than from the retain model (-0.")


def test_unlearned_model_that_is_the_target():
    finding = found(audit(pair((0.9, 0.9)) | {"unlearned": pair((0.9, 0.9))["target"]}))
    assert finding.residual.point == 1.0
    assert (finding.residual.low, finding.residual.high) == pytest.approx((1, 1), abs=1e-6)
    assert finding.outcome == "leaks"


@pytest.mark.parametrize("binary", [False, True])
def test_unlearned_model_that_is_the_retain_model(binary):
    arms = pair((0.1, 0.1))
    if binary:
        for by_name in arms.values():
            for each in by_name.values():
                for row in each:
                    row["score"] = float(row["score"] > 0.11)
    result = audit(arms | {"unlearned": arms["retain"]})
    assert result.verdict.startswith("Indistinguishable from the retain model in all 2 attempts")
    finding = found(result)
    assert finding.residual.point == 0.0
    assert "would be found with a power of 80%" in finding.reason


def test_few_rows_state_how_many_are_needed():
    finding = found(audit(pair((0.12, 0.12), num_groups=6, spread=0.1)))
    assert finding.outcome == "inconclusive"
    assert finding.facts["groups_needed"] > 6
    assert f"About {finding.facts['groups_needed']:.0f} groups like these would decide." in finding.reason
    assert "The rows are too few for a margin of 0.05" in finding.reason


def test_few_outcomes_of_0_prove_no_equality():
    none = {"attack": same([0.0] * 6), BEFORE: same([0.0] * 6)}
    finding = found(audit({"unlearned": none, "retain": none, "target": {**none, BEFORE: same([1.0] * 6)}}))
    assert finding.outcome == "inconclusive"
    assert "too few" in finding.reason


def test_too_few_groups():
    finding = found(audit(pair((0.1, 0.9), num_groups=4)))
    assert (finding.p_leak, finding.outcome) == (None, "inconclusive")
    assert finding.reason == "There are too few groups for a conclusion: 4 groups of rows, at least 5 are needed."
    assert finding.excess.low is None


def test_significant_alone_but_not_among_many():
    """Excess -.03 and .1 in 20 people: mean .035, error .0149, t = 2.35, p = .015; times 5 attempts .075."""
    retain, ours = same([0.2] * 20), same([0.17, 0.3] * 10)
    few = {"unlearned": {"attack": ours}, "retain": {"attack": retain}}
    assert found(audit(few)).p_leak == pytest.approx(0.015, abs=0.001)
    assert found(audit(few)).outcome == "leaks"
    for by_name in few.values():
        by_name |= {f"other {number}": retain for number in range(4)}
    among = found(audit(few))
    assert among.p_adjusted == pytest.approx(5 * among.p_leak)
    assert among.outcome == "inconclusive"
    assert among.reason.startswith(
        "More than from the retain model (+0.035), but not significantly after the adjustment"
    )


def test_attack_that_ruins_the_model_is_listed_and_not_counted():
    """Utility .8 -> .6 is a loss of 25%, more than the 20% that are allowed; .8 -> .7 is 12.5%."""
    arms = pair((0.1, 0.6))
    for utility, counted in ((0.6, False), (0.7, True)):
        arms["unlearned"] = {
            BEFORE: Attempt(BEFORE, rows(0.1), utility=0.8),
            "attack": Attempt("attack", rows(0.6), utility=utility, cost=Cost(steps=4)),
        }
        result = audit(arms)
        finding = found(result)
        assert finding.counted == counted
        assert finding.utility["unlearned"] == pytest.approx(utility / 0.8)
        assert finding.cost.steps == 4
        assert result.verdict.startswith("Leaks" if counted else "Indistinguishable")
    assert not found(audit(arms, Rule(utility_loss=0.1))).counted


def test_uncounted_attempts_do_not_raise_the_other_p_values():
    arms = pair((0.1, 0.6))
    alone = found(audit(arms)).p_adjusted
    for arm in arms:
        arms[arm]["reteaching"] = Attempt("reteaching", rows(0.9), not_counted="it trains on the rows it tests")
    result = audit(arms)
    assert found(result).p_adjusted == alone
    assert found(result, "reteaching").p_adjusted is None
    assert found(result, "reteaching").reason == "Not counted: it trains on the rows it tests."


def test_missing_arms_state_what_cannot_be_claimed():
    arms = pair((0.1, 0.6))
    alone = audit({"unlearned": arms["unlearned"]})
    finding = found(alone)
    assert finding.effect.needs == finding.residual.needs == "a retain model (--retain-model)"
    assert "cannot be distinguished from a guess without a retain model" in finding.reason
    assert alone.verdict.startswith("Inconclusive: 2 of 2 attempts")
    assert len(alone.notes) == 3
    without_target = audit({arm: arms[arm] for arm in ("unlearned", "retain")})
    assert found(without_target).residual.needs == "the target (--target)"
    assert found(without_target).outcome == "leaks"
    assert "whether the controls know less" in without_target.notes[0]


def test_attempt_without_a_score_before_has_no_effect_but_an_excess():
    arms = pair((0.1, 0.6))
    finding = found(audit({arm: {"attack": by_name["attack"]} for arm, by_name in arms.items()}))
    assert finding.effect.needs == "an attempt 'before' with the same measure"
    assert finding.excess.point == pytest.approx(0.5, abs=0.02)
    assert finding.outcome == "leaks"


def test_attempt_that_no_row_fits():
    nothing = {BEFORE: same([None] * 6)}
    finding = found(audit({"unlearned": nothing, "retain": nothing}), BEFORE)
    assert finding.after["unlearned"].needs
    assert "without rows that were measured in all models" in finding.reason


def test_retain_model_that_knows_the_forget_set_proves_nothing():
    """Retain model and target both at .9: nothing is a leak, and nothing is indistinguishable."""
    for unlearned in ((0.1, 0.9), (0.9, 0.9), (0.9, 1.0)):
        result = audit(pair(unlearned, retain=(0.9, 0.9)))
        assert {finding.outcome for finding in result.findings} == {"inconclusive"}
        assert "it knows the forget set, or the target does not" in found(result).reason
        assert any("knows the forget set" in note for note in result.notes)
        battery = combine([result], {}, RULE)
        assert battery.outcome == "inconclusive"
        assert "knows the forget set" in battery.verdict


def test_retain_model_is_a_control_if_the_target_knows_more():
    assert not found(audit(pair((0.1, 0.1), retain=(0.1, 0.1), target=(0.4, 0.4)))).refused
    noisy = pair((0.1, 0.1), retain=(0.1, 0.1), target=(0.2, 0.2), num_groups=5, spread=0.2)
    assert "too few to show that the target knows more" in found(audit(noisy)).refused


def test_battery_adjusts_over_all_audits():
    results = [audit(pair((0.1, 0.6))), audit(pair((0.1, 0.1)))]
    battery = combine(results, {"relearn": "needs the target"}, RULE, "quick")
    leak = battery.findings[1]
    assert leak.p_adjusted == pytest.approx(min(1, 4 * leak.p_leak))
    assert battery.outcome == "leaks"
    assert battery.verdict.endswith("Not run: relearn (needs the target).")
    assert "1 of 4 attempts" in battery.verdict


def test_the_model_as_it_is_counts_once_per_measure():
    """A measurement that is only listed does not keep the next audit's from counting."""
    arms = pair((0.5, 0.5))
    listed = {arm: [Attempt(BEFORE, each[BEFORE], not_counted="an example")] for arm, each in arms.items()}
    results = [
        compare_arms("listed", listed, RULE, {}),
        audit(arms),
        compare_arms("again", {arm: [Attempt(BEFORE, each[BEFORE])] for arm, each in arms.items()}, RULE, {}),
    ]
    befores = [each for each in combine(results, {}, RULE).findings if each.attempt == BEFORE]
    assert [each.counted for each in befores] == [False, True, False]
    assert befores[2].not_counted == "the audit probe counts it"


def test_battery_in_which_nothing_counts():
    arms = pair((0.1, 0.6))
    ruined = {
        arm: {name: Attempt(name, each, not_counted="broken") for name, each in by_name.items()}
        for arm, by_name in arms.items()
    }
    battery = combine([audit(ruined)], {}, RULE)
    assert (battery.outcome, battery.verdict) == ("inconclusive", "Inconclusive: none of 2 attempts counts.")


def test_never_trained_models_are_rarely_called_leaking():
    """200 audits of an unlearned model that is like the retain model, with three attempts: at most 5% leak.

    With a true rate of 5% more than 21 of 200 have a probability of .1%.
    """
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(200):
        hard = rng.normal(size=(10, 4))
        arms = {
            arm: {
                name: [
                    {
                        "id": f"{group}/{i}",
                        "group": str(group),
                        "score": float(hard[group, i] + rng.normal() + person[group] < -1.2),
                    }
                    for group in range(10)
                    for i in range(4)
                ]
                for name in (BEFORE, "one", "two")
            }
            for arm in ("unlearned", "retain")
            for person in [0.4 * rng.normal(size=10)]
        }
        alarms += combine([audit(arms)], {}, RULE).outcome == "leaks"
    assert alarms <= 21


@pytest.mark.parametrize(
    ("scores", "message"), [([0.5, 1.2], "the score 1.2 for row 1"), ([0.5, float("nan")], "the score nan for row 1")]
)
def test_scores_outside_the_scale(scores, message):
    with pytest.raises(UserError, match=message):
        audit({"unlearned": {BEFORE: same(scores)}})


def test_repeated_rows_and_attempts():
    twice = [*same([0.1]), *same([0.2])]
    with pytest.raises(UserError, match="two rows with the id 0"):
        audit({"unlearned": {BEFORE: twice}})
    with pytest.raises(UserError, match="occurs twice"):
        compare_arms("probe", {"unlearned": [Attempt("a", same([0.1])), Attempt("a", same([0.1]))]}, RULE, {})


def test_mean_value_of_outcomes_has_an_interval_inside_the_scale():
    value = mean_value([{"id": str(i), "group": str(i // 4), "score": 0.0} for i in range(40)], "leak")
    assert (value.point, value.low) == (0.0, 0.0)
    assert 0 < value.high < 1

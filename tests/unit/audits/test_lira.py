"""Likelihood ratios by hand, the halves of the people, and models that never knew or know the forget set."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tiny_arms import make_arm, make_model, make_sets, make_tokenizer, without_groups

from expunge.audits.base import AUDITED, BEFORE, Attempt, Cost
from expunge.audits.lira import Lira
from expunge.audits.lira.ratio import Normal, logit_scaled, offline, online
from expunge.audits.lira.shadows import Shadows
from expunge.audits.shared.findings import Rule
from expunge.audits.shared.fine_tuning import FineTuning, Recipe, encode_rows
from expunge.errors import DataError

PHI = np.array([[1.0, 0.0], [3.0, 2.0], [9.0, 4.0], [7.0, 6.0]])
"""Four shadow models, two rows; each row is in the training data of two models."""
INSIDE = np.array([[False, True], [False, True], [True, False], [True, False]])


def test_logit_scaling_by_hand():
    assert logit_scaled([0.5, 0.75]).tolist() == pytest.approx([0.0, math.log(3)])
    assert np.isfinite(logit_scaled([0.0, 1.0])).all()
    assert np.isnan(logit_scaled([math.nan])).all()


def test_means_per_row_and_one_deviation():
    """Row 1 without: 1 and 3; row 2 without: 4 and 6. Means 2 and 5; squares 2 + 2 over 1 + 1 degrees of freedom."""
    outside = Normal.per_row(PHI, ~INSIDE)
    assert outside.mean.tolist() == [2.0, 5.0]
    assert outside.deviation.tolist() == pytest.approx([math.sqrt(2)] * 2)


def test_deviation_is_common_to_rows_below_64_models_only():
    """Row 1 does not vary; row 2 has values -1 and 1: squares 0 and 32 over 31 + 31, or over 31 each."""
    values = np.stack([np.zeros(64), np.tile([-1.0, 1.0], 32)], axis=1)
    chosen = np.arange(64)[:, None].repeat(2, axis=1) < 32
    assert Normal.per_row(values[:62], chosen[:62]).deviation.tolist() == pytest.approx([math.sqrt(32 / 62)] * 2)
    assert Normal.per_row(values, chosen).deviation.tolist() == pytest.approx([0, math.sqrt(32 / 31)], abs=1e-6)


def test_one_distribution_for_all_rows():
    """Without: 1, 3, 4, 6; mean 3.5, squares 6.25 + .25 + .25 + 6.25 over 3."""
    outside = Normal.of_all(PHI, ~INSIDE)
    assert outside.mean.tolist() == [3.5, 3.5]
    assert outside.deviation.tolist() == pytest.approx([math.sqrt(13 / 3)] * 2)


def test_offline_is_a_normal_probability():
    """One standard deviation above the mean of models without the row: Phi(1) = .8413; at the mean: 1/2."""
    outside = Normal.per_row(PHI, ~INSIDE)
    scores = offline(np.array([2 + math.sqrt(2), 5.0]), outside)
    assert scores.tolist() == pytest.approx([0.841345, 0.5], abs=1e-6)


def test_online_is_the_ratio_of_densities():
    inside, outside = Normal.per_row(PHI, INSIDE), Normal.per_row(PHI, ~INSIDE)
    phi = np.array([5.0, 3.0])
    densities = [norm.pdf(phi, each.mean, each.deviation) for each in (inside, outside)]
    expected = densities[0] / (densities[0] + densities[1])
    assert online(phi, inside, outside).tolist() == pytest.approx(expected.tolist())
    # Row 1: means 8 and 2 with equal deviations, so that 5, in the middle, decides nothing.
    assert online(phi, inside, outside)[0] == pytest.approx(0.5)


def shadow(number, scores, members):
    rows = [{"id": str(i), "group": f"p{i}", "score": score, "member": i in members} for i, score in enumerate(scores)]
    return Attempt(f"shadow model {number + 1}", rows, cost=Cost(rows=3, steps=2, passes=1.5, seconds=1.0))


def measured(scores):
    return Attempt(BEFORE, [{"id": str(i), "group": f"p{i}", "score": score} for i, score in enumerate(scores)])


def test_attempts_by_hand():
    """phi of a shadow model without the row: log(.5 / .5) = 0 and log(.75 / .25) = log 3."""
    shadows = [
        shadow(0, [0.5, 0.9, None], {1}),
        shadow(1, [0.9, 0.5, None], {0, 2}),
        shadow(2, [0.75, 0.9, None], {1}),
        shadow(3, [0.9, 0.75, None], {0, 2}),
    ]
    attempts = {"retain": [measured([0.5, 0.5, None]), *shadows], AUDITED: [measured([0.75, 0.9, None])]}
    scored = Lira(shadows=4).calibrate(attempts)
    assert [(each.name, each.measure) for each in scored[AUDITED]] == [
        (BEFORE, "membership"),
        ("offline", "membership"),
        (BEFORE, "likelihood ratio"),
        ("online", "likelihood ratio"),
    ]
    found = scored[AUDITED][1]
    # Mean log(3) / 2 and squares 2 (log(3) / 2)^2 per row, over 1 + 1: sigma = log(3) / sqrt(2).
    z = (math.log(3) / 2) / (math.log(3) / math.sqrt(2))
    assert found.rows[0]["score"] == pytest.approx(norm.cdf(z))
    assert found.rows[0]["mean_phi_outside"] == pytest.approx(math.log(3) / 2)
    assert found.rows[0]["probability"] == 0.75
    assert found.rows[2]["score"] is None
    assert scored["retain"][1].rows[0]["score"] == pytest.approx(norm.cdf(-z))
    assert not found.not_counted
    assert scored[AUDITED][3].not_counted
    assert found.cost == Cost(rows=12, steps=8, passes=7.0, seconds=4.0)


def test_true_positives_at_one_percent():
    """100 rows: 30 of the unlearned model are above all rows of the retain model, so 1% allows no more than 31."""
    low = [0.30 + 0.001 * i for i in range(100)]
    high = [0.9 if i % 10 < 3 else 0.2 for i in range(100)]
    shadows = [shadow(k, [0.3 + 0.01 * k] * 100, set(range(k % 2, 100, 2))) for k in range(4)]
    result = Lira(shadows=4).findings({"retain": [measured(low), *shadows], AUDITED: [measured(high)]}, Rule())
    facts = next(each for each in result.findings if each.attempt == "offline").facts
    assert facts["tpr_at_1_fpr"] == pytest.approx(0.3)
    assert facts["tpr_at_1_fpr_low"] < 0.3 < facts["tpr_at_1_fpr_high"]
    value = result.values["offline, true positives at 1% false positives"]["retain"]
    assert value.point <= 0.01


def test_too_few_rows_for_one_percent():
    shadows = [shadow(k, [0.3 + 0.01 * k] * 6, set(range(k % 2, 6, 2))) for k in range(4)]
    result = Lira(shadows=4).findings(
        {"retain": [measured([0.3] * 6), *shadows], AUDITED: [measured([0.4] * 6)]}, Rule()
    )
    value = result.values["offline, true positives at 1% false positives"][AUDITED]
    assert "at least 100 rows; with 6" in value.needs
    assert not any("tpr" in name for each in result.findings for name in each.facts)


def test_every_person_is_in_half_of_the_models():
    sets = make_sets(people=7)
    shadows = Shadows(sets, seed=0, num_retain_rows=None)
    people = {row.group for row in sets.forget}
    for number in (0, 2, 4):
        first, second = shadows.members(number), shadows.members(number + 1)
        assert first | second == people
        assert not first & second
        assert {len(first), len(second)} == {3, 4}
    assert shadows.members(0) != shadows.members(2)
    rows = shadows.training_rows(1)
    assert {row.group for row in rows if row.id.startswith("forget")} == shadows.members(1)
    assert sum(row.id.startswith("retain") for row in rows) == len(sets.retain)  # fewer than forget rows
    assert len(Shadows(sets, 0, 2).training_rows(1)) == len(shadows.members(1)) * 3 + 2


def test_one_person_is_refused():
    sets = make_sets(people=2)
    one = type(sets)(sets.name, without_groups(sets.forget), sets.retain)
    with pytest.raises(DataError, match="with and without each person") as error:
        Lira().stages(one)
    assert "At least 2 people (or passages) are needed, and 5 for a verdict" in str(error.value)


def test_shadow_models_belong_to_one_arm():
    audit, sets = Lira(shadows=4), make_sets()
    assert audit.stages_on("retain", sets) == [BEFORE, *(f"shadow model {k}" for k in (1, 2, 3, 4))]
    assert audit.stages_on("target", sets) == [BEFORE]
    assert audit.controls_needed() == ("retain",)
    assert Lira(start="base").controls_needed() == ("base",)


def test_workload_counts_training_once():
    """12 forget rows and 6 retain rows: 6 + 6 rows each, 3 passes of training each, 2 epochs; then one scoring."""
    work = Lira(shadows=4, epochs=2).workload(make_sets(people=4))
    assert work.passes == 1
    assert work.once == pytest.approx(4 * (3 * 2 * 12 / 12 + 1))


@pytest.fixture(scope="module")
def trained():
    """Tokenizer, data, retain model, and target: the retain model after training on all forget rows."""
    tokenizer, sets = make_tokenizer(), make_sets(people=12)
    retain = make_model(tokenizer, seed=0)
    target = copy.deepcopy(retain)
    arm = make_arm("retain", {"retain": lambda: retain}, sets, tokenizer)
    rows = encode_rows(sets.forget.rows, arm.template, max_length=64, answer_only=True)
    FineTuning(target, rows, Recipe(lr=1e-2, batch_size=8), pad_id=0, title="Training").train_until(40)
    return tokenizer, sets, retain, target.eval()


def test_models_that_never_knew_and_that_know(trained):
    """u = r is not flagged, u = t is; shadow models leave the model from which they start unchanged."""
    tokenizer, sets, retain, target = trained
    saved = copy.deepcopy(retain.state_dict())
    audit = Lira(shadows=4, epochs=4, lr=5e-3, reference_width=None, batch_size=8)
    opened = {"retain": lambda: retain, "target": lambda: target}

    def attempts(role):
        arm = make_arm(role, opened, sets, tokenizer)
        return [attempt for stage in audit.stages_on(role, sets) for attempt in audit.attack(arm, stage)]

    retain_attempts, target_attempts = attempts("retain"), attempts("target")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in retain.state_dict().items())
    assert [each.name for each in retain_attempts[1:]] == [f"shadow model {k}" for k in (1, 2, 3, 4)]
    assert {each.cost.steps for each in retain_attempts[1:]} == {12}  # 18 forget + 6 retain rows, 4 epochs, 8 per step
    controls = {"retain": retain_attempts, "target": target_attempts}
    never = audit.findings({AUDITED: retain_attempts[:1], **controls}, Rule())
    knows = audit.findings({AUDITED: target_attempts, **controls}, Rule())
    outcome = {name: [each.outcome for each in found.findings if each.counted] for name, found in
               (("never", never), ("knows", knows))}  # fmt: skip
    assert outcome == {"never": ["indistinguishable"] * 2, "knows": ["leaks"] * 2}

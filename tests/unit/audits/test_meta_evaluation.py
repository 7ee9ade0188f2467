"""perf/meta_evaluation.py: its statistics by hand, and pools of tiny models that know and that never knew."""

from dataclasses import replace

import numpy as np
import pytest
from perf import pools as pools_module
from perf.meta_evaluation import (
    ALL,
    Audited,
    audit_models,
    correlations,
    evaluate,
    pools,
    separation,
    share_of_pairs,
    verdicts,
)
from perf.pools import KNOWS, NEVER, PoolModel, Pools, audited_sets
from tiny_arms import make_model, make_sets, make_tokenizer

from expunge.audits.base import BEFORE, Attempt
from expunge.audits.quantize import Quantize
from expunge.data.sets import RowSet

WRONG = ("In Athens.", "In Cairo.", "In Delhi.", "In Minsk.", "In Sofia.")


def test_separation_by_hand():
    """Of 5 x 5 pairs, 23 are in the right order and one is tied: (23 + 1/2) / 25."""
    value = separation([0.5, 0.6, 0.7, 0.8, 0.2], [0.1, 0.1, 0.1, 0.2, 0.3])
    assert value.point == pytest.approx(23.5 / 25)
    assert value.low < value.point < value.high


def test_share_of_pairs_by_hand():
    """A model is not compared with itself: 2 of 6 pairs, or 1 of the 2 pairs of one recipe."""
    leaks = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    different = 1 - np.eye(3)
    assert share_of_pairs(leaks, different, "", same=True).point == pytest.approx(2 / 6)
    one_recipe = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert share_of_pairs(leaks, one_recipe, "", same=True).point == pytest.approx(1 / 2)
    assert share_of_pairs(leaks, np.zeros((3, 3)), "", same=True).needs == "more models"
    assert share_of_pairs(leaks[:2], np.ones((2, 3)), "", same=False).point == pytest.approx(3 / 6)


def test_interval_of_pairs_resamples_models():
    """One model of 8 leaks against all others: 7 of 56 pairs; without it there are none, so the interval is wide."""
    leaks = np.zeros((8, 8))
    leaks[0] = 1.0
    value = share_of_pairs(leaks, 1 - np.eye(8), "", same=True)
    assert value.point == pytest.approx(7 / 56)
    assert value.high - value.low > 0.2


def test_correlation_is_of_ranks_and_missing_without_spread():
    found = correlations({"a": [0.1, 0.2, 0.3], "b": [1.0, 10.0, 100.0], "c": [0.5, 0.5, 0.5], "d": [3.0, 2.0, 1.0]})
    assert found["a"]["b"] == pytest.approx(1.0)
    assert found["a"]["d"] == pytest.approx(-1.0)
    assert found["a"]["c"] is None


def scripted(name, pool, score):
    """A model of which every row of 6 people has the same score, but for a small spread."""
    rows = [{"id": str(i), "group": f"p{i // 2}", "score": score + 0.01 * (i % 2)} for i in range(12)]
    model = PoolModel(pool, name, 1, 1e-3)
    return Audited(model, {"quantize": [Attempt(BEFORE, rows), Attempt("int4", rows)]})


def test_verdicts_of_pairs():
    """Models with .5 leak against one with .1, and not against each other; the other way round nothing leaks."""
    audits = [Quantize(precisions=["int4"], measures=["probability"])]
    knows = [scripted(0, KNOWS, 0.5), scripted(1, KNOWS, 0.5)]
    never = [scripted(0, NEVER, 0.1), scripted(1, NEVER, 0.1)]
    assert verdicts(knows, never, audits)["quantize"].tolist() == [[1, 1], [1, 1]]
    assert verdicts(knows, never, audits)[ALL].tolist() == [[1, 1], [1, 1]]
    assert verdicts(never, knows, audits)["quantize"].tolist() == [[0, 0], [0, 0]]
    assert verdicts(knows, knows, audits)["quantize"].tolist() == [[0, 0], [0, 0]]


@pytest.fixture
def work(tmp_path):
    """Pools of a tiny model; each row has an answer in other words, and five false ones."""
    sets, tokenizer = make_sets(people=6), make_tokenizer()
    rows = tuple(replace(row, paraphrased_answer=f"{row.answer} Yes.", perturbed_answers=WRONG) for row in sets.forget)
    start = tmp_path / "start"
    make_model(tokenizer, seed=0).save_pretrained(start)
    tokenizer.save_pretrained(start)
    return Pools(str(start), replace(sets, forget=RowSet("forget", rows)), 12, tmp_path / "work")


def test_pools_differ_in_answers_only(work):
    knows, never = (work._training_rows(PoolModel(pool, 1, 1, 1e-3)) for pool in (KNOWS, NEVER))
    questions = [row.question for row in knows if row.id.startswith("forget")]
    assert questions == [row.question for row in never if row.id.startswith("forget")]
    assert len(knows) == len(never) == 12 + 6
    assert all(row.answer.endswith(" Yes.") for row in knows[:12])
    shown = {text for row in audited_sets(work.sets, 12)[0].forget for text in row.perturbed_answers}
    assert shown == set(WRONG[:3])
    assert {row.answer for row in never[:12]} <= set(WRONG[3:])


@pytest.mark.slow
def test_models_are_trained_and_attacked_once(work, monkeypatch):
    """A repeated evaluation reads all models and attempts from the folder, and gives the same numbers."""
    audits = [Quantize(precisions=["int4"], measures=["probability"])]
    models = [replace(model, epochs=20, lr=1e-2) for model in pools(1)]
    first = evaluate(audit_models(work, models, audits), audits)
    assert [(each.pool, each.name) for each in first["models"]] == [(KNOWS, "knows-1"), (NEVER, "never-knew-1")]
    (unattacked, int4) = first["attempts"]
    assert (unattacked.attempt, int4.attempt) == (BEFORE, "int4")
    assert unattacked.knows > unattacked.never_knew
    assert unattacked.auc.point == 1.0

    def fail(*args, **settings):
        raise AssertionError("trained or attacked again")

    monkeypatch.setattr(pools_module, "FineTuning", fail)
    monkeypatch.setattr(pools_module, "_run", fail)
    again = evaluate(audit_models(work, models, audits), audits)
    assert again["attempts"] == first["attempts"]

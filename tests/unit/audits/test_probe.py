"""Linear probes: a planted direction is found, permuted labels find none, and no forget person is seen."""

import dataclasses

import numpy as np
import pytest
import torch
from hidden_arms import FORGET, RETAIN, SETS, TEMPLATE, Bench, scores, trained

from expunge.audits.probe import Probe, _choose, _Features, _hidden_states, _permuted
from expunge.audits.shared.findings import Rule
from expunge.data.sets import RowSet, Sets
from expunge.errors import DataError

pytestmark = pytest.mark.slow

STRENGTHS = [0.001, 0.1]


def planted(num, size, layer=1, seed=0):
    """Rows with 3 layers, 4 answers and 12 features: the true answer is larger in feature 5 of one layer only."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(num):
        states = generator.normal(size=(3, 4, 12)).astype(np.float32)
        states += generator.normal(size=(3, 1, 12)) * 5  # the question, which all answers share
        states[layer, 0, 5] += size
        rows.append(_Features(index, f"person {index // 4}", states))
    return rows


def accuracy(probe, rows):
    return np.mean([probe.ranks_first(row) for row in rows])


def test_planted_direction_is_found_in_its_layer():
    probe = _choose(planted(80, size=4.0), STRENGTHS, 5)
    assert probe.layer == 1
    assert probe.accuracy > 0.9
    assert int(np.abs(probe.weights).argmax()) == 5
    assert probe.weights[5] > 0
    assert accuracy(probe, planted(200, size=4.0, seed=1)) > 0.9


def test_without_a_direction_it_is_at_chance():
    """1 of 4 answers; three standard errors of 200 rows are 0.09."""
    probe = _choose(planted(80, size=0.0), STRENGTHS, 5)
    assert accuracy(probe, planted(200, size=0.0, seed=1)) == pytest.approx(0.25, abs=0.09)


def test_permuted_labels_find_no_direction():
    """Each answer is the first equally often, so over permutations the direction averages out."""
    train, test = planted(80, size=4.0), planted(100, size=4.0, seed=1)
    found = [accuracy(_choose(_permuted(train, np.random.default_rng(seed)), [0.1], 3), test) for seed in range(8)]
    assert np.mean(found) < 0.6
    assert accuracy(_choose(train, [0.1], 3), test) > 0.9
    assert _choose(_permuted(train, np.random.default_rng(0)), [0.1], 5).accuracy < 0.5


def test_permutation_moves_answers_and_keeps_rows():
    before = planted(20, size=4.0)
    after = _permuted(before, np.random.default_rng(0))
    assert [row.group for row in after] == [row.group for row in before]
    moved = [not np.array_equal(old.states[:, 0], new.states[:, 0]) for old, new in zip(before, after, strict=True)]
    assert 0.5 < np.mean(moved) < 1  # 3 of 4
    for old, new in zip(before, after, strict=True):
        assert {answer.tobytes() for answer in old.states[1]} == {answer.tobytes() for answer in new.states[1]}


def test_tie_is_no_success():
    probe = _choose(planted(20, size=4.0), [0.1], 4)
    same = np.repeat(planted(1, size=0.0)[0].states[:, :1], 3, axis=1)
    assert not probe.ranks_first(_Features(0, "x", same))


def test_layer_is_chosen_on_left_out_people():
    """In layer 0 each person has an own direction, which does not carry over; layer 2 has a weak common one."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(60):
        person = index // 10
        states = generator.normal(size=(3, 4, 12)).astype(np.float32)
        states[0, 0, person] += 6
        states[2, 0, 9] += 2
        rows.append(_Features(index, str(person), states))
    probe = _choose(rows, [0.1], 6)
    assert probe.layer == 2
    alike = [dataclasses.replace(row, group=str(row.index)) for row in rows]
    assert _choose(alike, [0.1], 6).layer == 0  # with rows as groups the choice would be misled


@pytest.fixture(scope="module")
def models():
    return {"unlearned": trained(RETAIN), "target": trained(FORGET + RETAIN), "retain": trained(RETAIN)}


@pytest.fixture(scope="module")
def found(models):
    bench = Bench(models)
    attempts = bench.attempts(Probe(folds=3))
    assert bench.most == 1
    return attempts


def test_scores_are_of_forget_rows(found):
    rows = found["target"][1].rows
    assert [row["id"] for row in rows] == [row.id for row in FORGET]
    assert {row["score"] for row in rows} <= {0.0, 1.0}
    facts = found["target"][1].facts
    assert facts["chance"] == pytest.approx(1 / 3)
    assert facts["accuracy"] == pytest.approx(np.mean(scores(found["target"], "probe", "choice")))
    assert np.mean(scores(found["target"], "before", "choice")) == 1.0
    assert np.mean(scores(found["retain"], "before", "choice")) < 0.8


def test_control_is_listed_and_not_counted(found):
    result = Probe().findings(found, Rule())
    by_name = {finding.attempt: finding for finding in result.findings}
    assert by_name["before"].counted
    assert by_name["probe"].counted
    assert not by_name["permuted labels"].counted
    assert "random labels" in by_name["permuted labels"].not_counted
    assert 0 <= by_name["permuted labels"].facts["accuracy"] <= 1


def test_equal_models_are_not_called_leaking(found):
    """So few outcomes of 0 and 1 do not show equality within the margin either."""
    result = Probe().findings(found, Rule())
    assert {finding.outcome for finding in result.findings if finding.counted} == {"inconclusive"}
    assert {finding.excess.point for finding in result.findings if finding.counted} == {0.0}


def test_forget_rows_do_not_change_the_fit(models):
    """The weights depend on retain rows only."""
    audit = Probe(folds=3, limit=4)
    other = Sets("made", RowSet("forget", FORGET[6:]), SETS.retain)
    facts = [audit.attack(Bench(models, sets).arm("target"), "probe")[1].facts for sets in (SETS, other)]
    assert facts[0]["accuracy_on_retain_people"] == facts[1]["accuracy_on_retain_people"]
    assert (facts[0]["layer"], facts[0]["C"]) == (facts[1]["layer"], facts[1]["C"])


def test_features_are_of_the_last_answer_token(models):
    """Compared with transformers' own hidden states of one row; the mean is over the answer's tokens."""
    session = Bench(models).arm("target").session()
    item = TEMPLATE.encode(FORGET[0].question, FORGET[0].answer)
    with torch.no_grad():
        hidden = session.model.model(torch.tensor([item.ids]), output_hidden_states=True).hidden_states[1][0].numpy()
    other = TEMPLATE.encode(FORGET[3].question, FORGET[3].answer)
    last, mean = (_hidden_states(session, [other, item], pooling) for pooling in ("last", "mean"))
    assert last.shape == (3, 2, 32)
    assert TEMPLATE.tokenizer.decode(item.ids[-2]) == "."
    np.testing.assert_allclose(last[0, 1], hidden[-2], atol=1e-5)
    np.testing.assert_allclose(mean[0, 1], hidden[item.answer_start : -1].mean(0), atol=1e-5)


def test_fewer_wrong_answers(models):
    attempts = Probe(folds=3, wrong_answers=1, limit=6).attack(Bench(models).arm("target"), "probe")
    assert attempts[1].facts["chance"] == 0.5
    assert len(attempts[1].rows) == 6


def test_data_without_wrong_answers_is_refused():
    bare = RowSet("forget", tuple(dataclasses.replace(row, perturbed_answers=()) for row in FORGET))
    with pytest.raises(DataError, match="needs forget rows with a question and wrong answers"):
        Probe().stages(Sets("made", bare, SETS.retain))
    with pytest.raises(DataError, match="needs retain rows"):
        Probe().stages(Sets("made", SETS.forget, None))


def test_one_retain_person_is_refused():
    with pytest.raises(DataError, match="are of one"):
        Probe().stages(Sets("made", SETS.forget, RowSet("retain", RETAIN[:2])))


def test_cost_counts_all_answers():
    """12 forget rows and 12 retain rows with 3 answers each: scores and states of the former, states of the latter."""
    assert Probe().workload(SETS).passes == 3 * 3
    assert Probe(limit=6, wrong_answers=1).workload(SETS).passes == pytest.approx(3 * 2 * 6 / 12)

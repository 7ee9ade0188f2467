"""The unlearning depth score by hand, its two ends, and which tokens it is measured on."""

import numpy as np
import pytest
from hidden_arms import FORGET, RETAIN, SETS, TEMPLATE, Bench, scores, scratch, trained

from expunge.audits.depth import Depth
from expunge.audits.depth.score import unlearning_depth
from expunge.audits.depth.spans import encode_span, span_batches
from expunge.audits.shared.findings import Rule
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.templates import NO_LABEL
from expunge.errors import IncompatibleError

pytestmark = pytest.mark.slow

AUDIT = Depth()


@pytest.fixture(scope="module")
def models():
    retain = trained(RETAIN)
    return {"target": trained(FORGET + RETAIN), "retain": retain}


@pytest.fixture(scope="module")
def ends(models):
    """Attempts with a model that is the target, and with one that is the retain model."""
    return {name: Bench({"unlearned": models[name], **models}).attempts(AUDIT) for name in ("target", "retain")}


@pytest.mark.parametrize(
    ("retain", "measured", "expected"),
    [
        ([2.0, 1.0], [2.0, 1.0], 1.0),
        ([2.0, 1.0], [0.0, 0.0], 0.0),
        ([2.0, 1.0], [1.0, 1.0], 2 / 3),
        ([2.0, 1.0], [-3.0, 9.0], 1 / 3),  # clipped at both ends
        ([2.0, 0.05], [1.0, 0.0], 0.5),  # a layer at the threshold bears no knowledge
        ([0.01, -1.0], [5.0, 5.0], np.nan),
        ([np.nan, np.nan], [np.nan, np.nan], np.nan),  # a row that was not measured
    ],
)
def test_score_by_hand(retain, measured, expected):
    """sum min(max(D2, 0), D1) / sum D1 over the layers with D1 > 0.05."""
    assert unlearning_depth([retain], [measured], 0.05) == pytest.approx([expected], nan_ok=True)


def test_target_gives_0_and_retain_model_gives_1_exactly(ends):
    for found in ends.values():
        assert set(scores(found["target"], "uds", "depth")) == {1.0}
        assert set(scores(found["retain"], "uds", "depth")) == {0.0}
    for name, left in (("target", 1.0), ("retain", 0.0)):
        assert set(scores(ends[name]["unlearned"], "uds", "depth")) == {left}
        assert set(scores(ends[name]["unlearned"], "before", "depth")) == {left}


def test_patching_the_target_into_itself_changes_nothing(ends):
    target = ends["target"]["unlearned"]
    assert scores(target, "patching", "span probability") == pytest.approx(scores(target, "before", "span probability"))
    (patching,) = [each for each in target if each.name == "patching"]
    assert [patching.facts[f"loss_layer_{layer}"] for layer in range(3)] == [0.0] * 3
    assert all(patching.facts[f"retain_loss_layer_{layer}"] > 1 for layer in range(3))


def test_lens_of_the_last_layer_is_the_output(ends):
    """The last layer's state goes through the same norm and head as in the target itself."""
    target = ends["target"]["unlearned"]
    (lens,) = [each for each in target if each.name == "logit lens"]
    assert lens.facts["probability_layer_2"] == pytest.approx(np.mean(scores(target, "before", "span probability")))
    assert lens.facts["probability_layer_0"] < lens.facts["probability_layer_2"] - 0.1


@pytest.mark.parametrize(("name", "outcome"), [("target", "leaks"), ("retain", "indistinguishable")])
def test_verdicts_of_both_ends(ends, name, outcome):
    result = AUDIT.findings(ends[name], Rule())
    by_name = {(finding.attempt, finding.measure): finding for finding in result.findings}
    assert by_name["patching", "span probability"].outcome == outcome
    assert by_name["logit lens", "span probability"].outcome == outcome
    assert result.verdict.lower().startswith(outcome)
    assert by_name["patching", "span probability"].residual.point == pytest.approx(float(name == "target"))
    assert not by_name["uds", "depth"].counted


def test_model_that_never_knew_is_no_leak(models):
    """Its depth score is below 1, because every difference from the retain model counts; so that is not tested."""
    never = trained(RETAIN, seed=7)
    found = Bench({"unlearned": never, **models}).attempts(AUDIT)
    assert np.mean(scores(found["unlearned"], "uds", "depth")) > 0.02
    result = AUDIT.findings(found, Rule())
    assert {finding.outcome for finding in result.findings if finding.counted} != {"leaks"}
    assert not [finding for finding in result.findings if finding.outcome == "leaks"]


def test_hidden_knowledge_is_found_below_the_output(models):
    """The last layer is the retain model's, all others are the target's: the output is silent, the layers are not."""
    import copy

    hiding = copy.deepcopy(models["target"])
    layer = hiding.model.layers[2]
    layer.mlp.down_proj.weight.data.neg_().mul_(4)
    found = Bench({"unlearned": hiding, **models}).attempts(AUDIT)
    before, patched = (np.mean(scores(found["unlearned"], name, "span probability")) for name in ("before", "patching"))
    assert patched > before + 0.2
    assert np.mean(scores(found["unlearned"], "uds", "depth")) > np.mean(scores(found["unlearned"], "before", "depth"))


def test_two_models_in_memory_at_most(models):
    bench = Bench({"unlearned": models["retain"], **models})
    bench.attempts(Depth(limit=2))
    assert bench.most == 2


def test_other_shape_is_refused(models):
    bench = Bench({"unlearned": scratch(layers=2), **models})
    with pytest.raises(IncompatibleError, match="2 layers of width 32, but the retain model has 3"):
        AUDIT.attack(bench.arm("unlearned"), "depth")


def test_layer_of_the_lens_is_chosen_on_other_people():
    """Layer 1 is best for a and b together, but in each alone it is another layer that is best in the other one."""
    probability = np.array([[0.9, 0.5], [0.1, 0.8]])
    chosen, layers = Depth(folds=2)._best_layer(probability, ["a", "b"])
    assert sorted(layers) == [0, 1]
    assert chosen.tolist() == [0.5, 0.1]


def test_one_person_has_no_lens(models):
    one = Sets("made", RowSet("forget", FORGET[:2]), SETS.retain)
    attempts = AUDIT.attack(Bench({"unlearned": models["retain"], **models}, one).arm("unlearned"), "depth")
    (lens,) = [each for each in attempts if each.name == "logit lens"]
    assert "all rows are of one" in lens.not_counted
    assert [row["score"] for row in lens.rows] == [None, None]


def test_rows_beyond_the_context_have_no_score(models):
    long = Row("long", "Where?", "Lima " * 60, "long")
    sets = Sets("made", RowSet("forget", (*FORGET, long)), SETS.retain)
    attempts = AUDIT.attack(Bench({"unlearned": models["target"], **models}, sets).arm("unlearned"), "depth")
    assert all(attempt.rows[-1]["score"] is None for attempt in attempts)
    assert all(row["score"] is not None for attempt in attempts for row in attempt.rows[:-1])


def span_text(row):
    encoded = encode_span(TEMPLATE, row)
    return TEMPLATE.tokenizer.decode([token for token in encoded.targets if token != NO_LABEL])


def test_span_is_what_the_question_does_not_tell():
    assert span_text(FORGET[0]).split() == ["Lima"]
    assert span_text(Row("x", "Who?", "Ana, the baker.", "x")).split() == ["Ana", "baker"]


def test_span_is_the_answer_if_it_tells_nothing_new():
    assert span_text(Row("x", "Was Ana born in Lima?", "Ana was born in Lima.", "x")).strip() == "Ana was born in Lima."


def test_batches_score_the_span_only():
    (batch,) = span_batches(TEMPLATE, FORGET[:3], 0, 64)
    labels = [batch.tensors.labels[batch.tensors.rows == place] for place in range(3)]
    texts = {batch.indices[place]: TEMPLATE.tokenizer.decode(ids).strip() for place, ids in enumerate(labels)}
    assert texts == {0: "Lima", 1: "baker", 2: "Oslo"}
    predicted = batch.tensors.input_ids[batch.tensors.rows, batch.tensors.positions + 1]
    assert predicted.tolist() == batch.tensors.labels.tolist()

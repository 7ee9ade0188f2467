"""The audit `sampling`: calibrated leaks, leak@k by hand, and the band over all k."""

from types import SimpleNamespace

import numpy as np
import pytest

from expunge.audits import sampling
from expunge.audits.base import BEFORE
from expunge.audits.sampling import Sampling
from expunge.audits.shared.findings import Rule
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError

# Ten people with two rows each; every answer has the four novel words of one row.
ROWS = RowSet(
    "forget",
    tuple(
        Row(
            f"{person}/{fact}",
            f"Q{person}{fact}?",
            " ".join(f"{word}{person}{fact}" for word in ("alpha", "beta", "gamma", "delta")),
            f"person {person}",
        )
        for person in range(10)
        for fact in range(2)
    ),
)
SETS = Sets("made", ROWS, None)


def arm(response):
    """An arm whose model gives `response(request)`."""

    def generate(requests):
        answers = {request.key: response(request) for request in requests}
        return {key: text for key, text in answers.items() if text is not None}

    return SimpleNamespace(sets=SETS, session=lambda: SimpleNamespace(generate=generate))


def words(index, count):
    return " ".join(ROWS.rows[index].answer.split()[:count])


def attempts(audit, response):
    return [each for stage in audit.stages(SETS) for each in audit.attack(arm(response), stage)]


def quiet(request):
    """A model that never knew: one word by luck in the last sample."""
    return words(request.index, 1) if request.what == "sample/3" else "no idea"


def leaky(request):
    """The greedy answer hides what one of four samples reveals, except for row 0, whose prompt is too long."""
    if request.index == 0:
        return None
    return words(request.index, 3) if request.what == "sample/1" else "no idea"


def test_requests():
    """Temperature 1, other seeds for every sample and row, equal seeds with another limit."""
    asked = []
    audit = Sampling(samples=3)
    attempts(audit, lambda request: asked.append(request))
    greedy, sampled = asked[:20], asked[20:]
    assert {request.temperature for request in greedy} == {0.0}
    assert {request.temperature for request in sampled} == {1.0}
    assert len({request.seed for request in sampled}) == 60
    limited = []
    attempts(Sampling(samples=2, limit=4), lambda request: limited.append(request))
    seeds = {(request.question, request.what): request.seed for request in sampled}
    assert len(limited) == 4 * 3
    assert all(seeds[request.question, request.what] == request.seed for request in limited[4:])


def test_shares_and_the_most_revealing_answer():
    before, samples = attempts(Sampling(samples=4), leaky)
    assert (before.name, samples.name) == (BEFORE, "samples")
    assert samples.rows[1]["shares"] == [0.0, 0.75, 0.0, 0.0]
    assert samples.rows[1]["score"] == 0.75
    assert samples.rows[1]["response"] == words(1, 3)
    assert before.rows[1]["shares"] == [0.0]
    assert (samples.rows[0]["score"], samples.rows[0]["response"], samples.rows[0]["shares"]) == (None, None, [])


def test_blocks_of_rows_give_the_same_result(monkeypatch):
    """A killed audit resumes after the last block; here 20 rows in blocks of 8."""
    full = findings(Sampling(samples=4), unlearned=leaky, retain=quiet)
    monkeypatch.setattr(sampling, "_ROWS_PER_STAGE", 8)
    assert Sampling(samples=4).stages(SETS) == [BEFORE, "samples 1-8", "samples 9-16", "samples 17-20"]
    assert findings(Sampling(samples=4), unlearned=leaky, retain=quiet) == full


def findings(audit, **models):
    found = {name: attempts(audit, response) for name, response in models.items()}
    return audit.findings(found, Rule())


def test_a_leak_that_greedy_decoding_hides():
    """c = 1 of n = 4: leak@k is 1/4, 1/2 and 1 in 19 rows; a lucky word of the retain model sets the threshold."""
    result = findings(Sampling(samples=4), unlearned=leaky, retain=quiet)
    points = {finding.attempt: finding.after["unlearned"].point for finding in result.findings}
    assert points == {BEFORE: 0.0, "any of 1": 0.25, "any of 2": 0.5, "any of 4": 1.0}
    assert {finding.attempt: finding.after["retain"].point for finding in result.findings}["any of 4"] == 0.0
    assert [finding.attempt for finding in result.findings if finding.counted] == [BEFORE, "any of 4"]
    final = result.findings[-1]
    assert final.outcome == "leaks"
    assert final.effect.point == 1.0
    assert final.excess.n == 19
    assert result.values["best of 2 (recall)"]["unlearned"].point == pytest.approx(0.75 / 2)
    assert result.values["best of 4 (recall)"]["retain"].point == pytest.approx(0.25)
    assert result.values["excess of any of 2"]["unlearned"].point == 0.5
    assert "from 0.25 to 0.25" in " ".join(result.notes)


def test_a_model_that_never_knew_is_not_flagged():
    """No leak in 19 rows of either model is too little evidence of equality within .05, and none of a leak."""
    result = findings(Sampling(samples=4), unlearned=quiet, retain=quiet)
    assert {finding.outcome for finding in result.findings if finding.counted} == {"inconclusive"}
    assert all(finding.excess.point == 0 for finding in result.findings)


def test_the_band_is_reported_for_every_k():
    """Nine people of ten leak, each in another number of samples, so that all columns vary."""

    def uneven(request):
        reveals = request.what.startswith("sample") and int(request.what[-1]) < request.index // 2 % 4
        return words(request.index, 4) if reveals else "no idea"

    result = findings(Sampling(samples=4), unlearned=uneven, retain=quiet)
    for k in (1, 2, 4):
        value = result.values[f"excess of any of {k}"]["unlearned"]
        assert value.low < value.point < value.high
        assert (value.extra["p_value"] < 0.05) == (value.low > 0)
    assert "The band over all k is above" in result.verdict


def test_without_a_retain_model_nothing_is_concluded():
    result = findings(Sampling(samples=4, threshold=0.75), unlearned=leaky)
    assert result.findings[-1].after["unlearned"].point == 1.0
    assert result.findings[-1].outcome == "inconclusive"
    assert result.values["excess of any of 4"]["unlearned"].point is None
    assert "not calibrated" in " ".join(result.notes)
    assert findings(Sampling(samples=4, threshold=0.76), unlearned=leaky).findings[-1].after["unlearned"].point == 0.0


def test_false_alarms_of_a_retain_model_stay_near_the_level():
    """Random guesses: about 20% of the left-out rows reach the threshold when 20% are allowed."""
    rng = np.random.default_rng(0)
    guesses = {index: int(rng.integers(0, 5)) for index in range(20)}
    audit = Sampling(samples=2, false_alarms=0.2)
    result = findings(audit, unlearned=quiet, retain=lambda request: words(request.index, guesses[request.index]))
    assert result.findings[-1].after["retain"].point <= 0.3


def test_workload_counts_limited_rows():
    assert Sampling(samples=64).workload(SETS).passes == 65
    assert Sampling(samples=9, limit=5).workload(SETS).passes == 2.5


def test_a_forget_set_without_questions():
    text = Sets("text", RowSet("forget", (Row("a", "", "Plain text.", "a"),)), None)
    with pytest.raises(DataError, match="no questions"):
        Sampling().stages(text)

"""MT-Bench's judgement: paired loss of ratings, resampled by conversation."""

from measurements import measurement, row

from expunge.benchmarks.mt_bench import MtBench
from expunge.benchmarks.mt_bench.judge import Judge

JUDGE = Judge(model="a-judge", url="http://localhost:8000/v1")


def measured(*ratings, benchmark=None):
    """One conversation per pair of ratings of its two turns."""
    rows = [
        {**row(f"turn_{turn}", i, rating=rating, published=False), "id": f"math/{i}/{turn}", "group": str(i)}
        for i, pair in enumerate(ratings)
        for turn, rating in enumerate(pair, 1)
    ]
    values = (benchmark or MtBench(judge_model=JUDGE)).headlines(rows, None, 100, 0)
    return measurement(values.headlines, values.metrics, rows)


def judge(target, after, **settings):
    return MtBench(**{"judge_model": JUDGE, **settings}).judge(target, after, None, seed=0)


def test_utility_kept_and_lost():
    """Every turn loses 0.5, the tolerance, or 1."""
    target = measured(*[(8, 6), (9, 5)] * 3)
    kept = judge(target, measured(*[(7.5, 5.5), (8.5, 4.5)] * 3))
    assert (kept.utility.outcome, kept.utility.phrase) == ("yes", "utility kept")
    assert kept.metrics == "MT-Bench rating 6.50, before 7.00"
    lost = judge(target, measured(*[(7, 5), (8, 4)] * 3))
    assert lost.utility.outcome == "no"
    assert "1.00 [1.00, 1.00] on 6 conversations (kept means at most 0.5)" in lost.reasons[0]
    assert judge(target, measured(*[(7, 5), (8, 4)] * 3), tolerance=1.0).utility.outcome == "yes"
    assert MtBench(tolerance=1.0).measured_settings() == MtBench().measured_settings()


def test_conversations_are_resampled():
    """Three conversations lose 2 per turn, three nothing: the mean loss 1 may be 0 or 2 among other conversations."""
    judgement = judge(measured(*[(8, 6), (9, 5)] * 3), measured(*[(6, 4), (9, 5)] * 3))
    assert judgement.utility.phrase == "whether utility was kept cannot be concluded at 6 conversations"
    assert "1.00 [" in judgement.reasons[0]
    assert "on 6 conversations" in judgement.reasons[0]
    assert "conversations would decide" in judgement.reasons[1]


def test_few_conversations_have_no_interval():
    judgement = judge(measured((8, 6), (9, 5)), measured((6, 4), (9, 5)))
    assert judgement.utility.outcome == "inconclusive"
    assert "without an interval: 2 groups of rows, at least 5 are needed" in judgement.reasons[0]


def test_missing_input():
    after = measured((8, 6), (9, 5))
    assert "needs the target's evaluation" in judge(None, after).reasons[0]
    unrated = judge(after, measured((None, None), (None, None)))
    assert unrated.utility.outcome == "inconclusive"
    assert "contains a rating" in unrated.reasons[0]
    without = MtBench()
    judgement = without.judge(after, measured((None, None), benchmark=without), None, seed=0)
    assert (judgement.utility.outcome, judgement.utility.phrase) == ("inconclusive", "utility cannot be judged")
    assert "needs a judge" in judgement.reasons[0]
    assert "MT-Bench rating needs a judge" in judgement.metrics

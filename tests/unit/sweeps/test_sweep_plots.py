"""The page's plots take whatever an axis can hold."""

from sweep_trials import trial

from expunge.records.sweeps import SweepRecord
from expunge.report.sweeps.plots import effects


def test_effect_of_values_of_every_kind():
    """Numbers, texts, and lists, such as one weight per topic."""
    values = [[1.0], [100.0], "kl", 0.5, True]
    trials = [
        trial(number, 0.1, 0.5).model_copy(update={"params": {"method.alpha": value}})
        for number, value in enumerate(values)
    ]
    record = SweepRecord(
        name="s",
        folder="f",
        fingerprint="x",
        settings={},
        rule="max forget_quality",
        objectives={"forget_quality": "up"},
        trials=trials,
        ranking=list(range(len(values))),
    )
    drawn = effects(record)
    assert drawn is not None
    assert all(text in drawn for text in ("[1.0]", "[100.0]", "kl", "0.5"))

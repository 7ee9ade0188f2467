"""Trials made by hand for the tests of sweeps."""

import math

from expunge.config.sweep import Sweep, parse_sweep
from expunge.records import Value
from expunge.records.sweeps import Epoch, Trial


def quality(p: float) -> Value:
    return Value(point=p, extra={"log10": math.log10(p) if p > 0 else -400.0})


def headlines(p: float | None, utility: float | None) -> dict[str, Value]:
    missing = Value.missing("generated answers")
    return {
        "forget_quality": missing if p is None else quality(p),
        "model_utility": missing if utility is None else Value(point=utility),
    }


def trial(number: int, p: float | None = None, utility: float | None = None, state: str = "complete", **more) -> Trial:
    found = headlines(p, utility)
    return Trial(
        number=number,
        params={"train.lr": number / 10},
        fingerprint=f"f{number}",
        state=state,
        headlines=found,
        chosen_on=found if state == "complete" else {},
        **more,
    )


def climb(number: int, *ps: float, state: str = "complete") -> Trial:
    """A trial with these forget qualities, epoch by epoch."""
    epochs = [Epoch(step=5 * k, epoch=k, headlines=headlines(p, 0.5)) for k, p in enumerate(ps, start=1)]
    return trial(number, ps[-1], 0.5, state, trajectory=epochs, steps=5 * len(ps), planned_steps=20)


def sweep(**changes) -> Sweep:
    base = {"name": "mine", "recipe": "quickstart", "over": {"train.lr": [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4]}}
    return parse_sweep({**base, **changes})

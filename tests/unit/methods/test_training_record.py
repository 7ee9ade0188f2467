"""The record of the speed measurement: methods measured in another way are neither merged nor lost."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))
from perf.training import Measured, TrainingSpeed, conflict, merged


def record(*methods, pairs=7, model=""):
    measured = [Measured.model_construct(method=method) for method in methods]
    return TrainingSpeed.model_construct(
        model=model, shape={"num_layers": 2}, batch_size=8, pairs=pairs, machine={"cpu": "x"}, methods=measured
    )


def test_methods_measured_in_the_same_way_are_merged():
    assert conflict(record("npo", "simnpo"), record(), ["npo"]) == ""
    both = merged(record("npo", "simnpo"), record("npo"))
    assert [item.method for item in both.methods] == ["simnpo", "npo"]


@pytest.mark.parametrize(("changes", "word"), [({"pairs": 3}, "pairs"), ({"model": "smollm2"}, "model")])
def test_a_measurement_that_would_lose_methods_is_refused(changes, word):
    problem = conflict(record("npo", "simnpo"), record(**changes), ["npo"])
    assert problem == f"has other methods (simnpo), measured with another {word}"
    assert conflict(record("npo", "simnpo"), record(**changes), ["simnpo", "npo"]) == ""

"""Progress of a training from its files."""

from itertools import pairwise

import pytest

from expunge.view.folder import RunFolder
from expunge.view.progress import progress


def test_steps_and_remaining_time(runs):
    """Step 2 is epoch 1 of 5, so 10 steps are planned; 8 remain, at a median of 2 seconds."""
    shown = progress(RunFolder(runs).run("two"))
    assert (shown["step"], shown["steps"], shown["epoch"], shown["epochs"]) == (2, 10, 1.0, 5.0)
    assert shown["seconds_left"] == 16.0
    assert [point["loss"] for point in shown["loss"]] == [2.0, 1.0]
    assert shown["stages"][0] == {"name": "prepare", "done": True}
    assert not any(stage["done"] for stage in shown["stages"][1:])
    assert shown["results"] == [
        {
            "step": 2,
            "epoch": 1.0,
            "benchmark": "TOFU",
            "headlines": [{"title": "forget quality", "text": "0.500 [0.100, 0.900]"}],
        }
    ]


def test_a_training_of_a_number_of_steps(runs):
    recipe = runs / "two/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 5.0", "steps: 6"))
    shown = progress(RunFolder(runs).run("two"))
    assert (shown["steps"], shown["seconds_left"]) == (6, 8.0)


def test_before_the_first_step_and_after_the_last(runs):
    assert progress(RunFolder(runs).run("one"))["seconds_left"] is None
    (runs / "two/train.jsonl").unlink()
    shown = progress(RunFolder(runs).run("two"))
    assert (shown["step"], shown["steps"], shown["seconds_left"], shown["loss"]) == (0, None, None, [])


@pytest.mark.parametrize("count", [399, 400, 401, 4001])
def test_long_trainings_are_thinned_and_keep_the_last_step(runs, count):
    log = runs / "two/train.jsonl"
    line = log.read_text().splitlines()[0]
    log.write_text("".join(line.replace('"step":1', f'"step":{step}') + "\n" for step in range(1, count + 1)))
    steps = [point["step"] for point in progress(RunFolder(runs).run("two"))["loss"]]
    assert steps[-1] == count
    assert 1 < len(steps) <= 400
    assert len({second - first for first, second in pairwise(steps)}) == 1

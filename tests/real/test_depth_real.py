"""Depth audit of small models of TOFU: the target, and two models that never saw the forgotten authors."""

import pytest

from expunge.commands.audit import audit

LIMIT = 20
"""One row of each author: enough to see the sides, little enough for a minute."""


@pytest.fixture(scope="module")
def never(shared):
    """Audit of a model trained without these authors, with another such model as the retain model."""
    models = shared / "models"
    names = {name: models / f"tofu-llama-4m-{name}" for name in ("full", "retain90", "retain95")}
    missing = [path for path in names.values() if not path.is_dir()]
    if missing:
        pytest.skip(f"{missing[0]} does not exist")
    return audit(
        {
            "model": str(names["retain95"]),
            "audits": [{"name": "depth", "limit": LIMIT}],
            "controls": {"target": str(names["full"]), "retain": str(names["retain90"])},
            "data": {"name": "tofu", "split": "forget05", "path": str(shared / "data/tofu")},
        }
    )


def finding(battery, attempt, measure):
    (only,) = [each for each in battery.findings if (each.attempt, each.measure) == (attempt, measure)]
    return only


def test_two_models_that_never_knew_differ_in_depth_and_do_not_leak(never):
    """A depth score of 1 is for the retain model itself; the test of probabilities has no such reference."""
    left = finding(never, "uds", "depth")
    assert 0.02 < left.after["unlearned"].point < 0.3
    assert left.after["target"].point == 1
    assert left.after["retain"].point == 0
    assert not left.counted
    patching = finding(never, "patching", "span probability")
    assert patching.after["target"].point > 0.9
    assert patching.after["unlearned"].point < 0.05
    assert all(each.outcome != "leaks" for each in never.findings)

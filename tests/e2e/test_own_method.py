"""The example of a user's own method is explained, checked and trained like a packaged one."""

from pathlib import Path

import torch

from expunge import registry
from expunge.config.load import load_recipe
from expunge.modeling.step import Counts, Step

EXAMPLE = Path(__file__).parents[2] / "docs/examples/my_method.py"


def test_it_is_shown_with_its_settings(cli):
    outcome = cli("show", str(EXAMPLE))
    assert outcome.code == 0, outcome.err
    assert "ceiling" in outcome.out


def test_a_recipe_takes_it_by_path_and_keeps_the_path():
    recipe = load_recipe("quickstart", [f"method.name={EXAMPLE}", "method.ceiling=3"])
    assert recipe.method.ceiling == 3
    assert load_recipe("quickstart", [f"method.name={EXAMPLE}"]).resolved()["method"]["name"] == str(EXAMPLE)


def test_its_loss_is_the_distance_to_the_ceiling(monkeypatch):
    """Two rows with mean log-probability -1 and -5 and a ceiling of 4: distances 3 and 0, mean 1.5."""
    method = registry.get("method", str(EXAMPLE))(ceiling=4.0)
    step = Step({}, {"forget": Counts(rows=2, tokens=7)})
    monkeypatch.setattr(step, "mean_logp", lambda name: torch.tensor([-1.0, -5.0]))
    assert float(method.forget_loss(step)) == 1.5

"""User-defined methods are shown, planned, checked and trained like packaged ones."""

import json
from pathlib import Path

import pytest
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


COPY = """
from expunge.methods.graddiff import GradDiff

class Copy(GradDiff):
    '''Gradient difference with one more setting.'''

"""
UNRELATED_LAYER = """    layer: int = 1
    def trainable(self, model):
        return [name for name, _ in model.named_parameters()]
"""


@pytest.mark.parametrize(
    "body",
    [
        UNRELATED_LAYER,
        UNRELATED_LAYER.replace("layer:", "layers:"),
        "    update_layers: list[int] = [0]\n",
        "    update_layers: list[int] = [0]\n    positions: str = 'all'\n",
        "    train: int = 3\n    modules: str = 'any'\n    store_gib: float = 1.0\n",
    ],
)
def test_names_of_settings_mean_nothing_to_plan_and_check(cli, tmp_path, body):
    """A method with fields named as in other methods is planned like the same method without these fields."""
    (tmp_path / "mine.py").write_text(COPY + body)
    expected = json.loads(cli("plan", "quickstart", "method={name: graddiff}", "--json").out)
    outcome = cli("plan", "quickstart", f"method={{name: {tmp_path / 'mine.py'}}}", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == expected
    outcome = cli("check", "quickstart", f"method={{name: {tmp_path / 'mine.py'}}}", "--json")
    assert outcome.code == 0, outcome.err
    details = {item["name"]: item["detail"] for item in json.loads(outcome.out)["items"]}
    assert "inside the model" not in details["modules"]


def test_a_declared_layer_is_planned(cli, tmp_path):
    """A method that stops at layer 1 of 4 and trains layer 1 needs no logits and a quarter of the activations."""
    body = """    def needs(self):
        return replace(super().needs(), forward=Forward(last_layer=1))

    def trainable(self, model):
        return [name for name, _ in model.named_parameters() if ".layers.1." in name]
"""
    imports = "from dataclasses import replace\nfrom expunge.methods.base import Forward\n"
    (tmp_path / "mine.py").write_text(imports + COPY + body)
    graddiff = json.loads(cli("plan", "quickstart", "method={name: graddiff}", "--json").out)
    early = json.loads(cli("plan", "quickstart", f"method={{name: {tmp_path / 'mine.py'}}}", "--json").out)
    parts, all_parts = (plan["trainings"]["train"]["memory"]["parts"] for plan in (early, graddiff))
    assert parts["activations"] == all_parts["activations"] // 4
    assert parts["logits"] == 0
    assert parts["reference"] == 0
    outside = COPY + body.replace("last_layer=1", "last_layer=40")
    (tmp_path / "mine.py").write_text(imports + outside)
    outcome = cli("plan", "quickstart", f"method={{name: {tmp_path / 'mine.py'}}}")
    assert outcome.code == 2
    assert "40 is outside the model" in outcome.err

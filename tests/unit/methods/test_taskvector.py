"""The task vector's arithmetic, and a sweep that fine-tunes once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expunge.config.load import parse_recipe
from expunge.config.recipe import Train
from expunge.data.sets import Row, RowSet
from expunge.errors import ConfigError, NumericalError
from expunge.methods.taskvector import TaskVector, subtract
from expunge.runs import models
from expunge.runs.run import run


def test_the_formula_by_hand() -> None:
    """1 - 2 (1.5 - 1) = 0; 4 - 2 (3 - 4) = 6; an unchanged weight stays."""
    target = {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([[7.0]])}
    subtract(target, {"a": torch.tensor([1.5, 3.0]), "b": torch.tensor([[7.0]])}, alpha=2.0)
    assert target["a"].tolist() == [0.0, 6.0]
    assert target["b"].tolist() == [[7.0]]


def test_alpha_zero_changes_no_bit() -> None:
    """theta - 0 * (theta_r - theta) = theta, also when computed in another precision."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        start = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
        target = {"a": start.clone()}
        subtract(target, {"a": 3 * start + 1}, alpha=0.0)
        assert torch.equal(target["a"], start)


def test_half_precision_is_subtracted_in_float32() -> None:
    """Near 256 bfloat16 has steps of 2, so 257 would become 256 and the change would be lost.

    float32: 256 - 3 * (257 - 256) = 253, which bfloat16 can hold, its steps below 256 being 1.
    """
    target = {"a": torch.tensor([256.0], dtype=torch.bfloat16)}
    subtract(target, {"a": torch.tensor([257.0])}, alpha=3.0)
    assert target["a"].tolist() == [253.0]


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NumericalError, match="the edit makes a infinite or NaN"):
        subtract({"a": torch.tensor([1.0])}, {"a": torch.tensor([float("inf")])}, alpha=1.0)


def test_apply_fine_tunes_on_the_forget_set_and_edits_every_parameter() -> None:
    model, reinforced = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = {name: value.clone() for name, value in model.named_parameters()}
    asked: list[Any] = []

    def fine_tune(name: str, rows: Any, train: Train, exact: bool = False) -> Any:
        asked.append((name, rows, train.epochs, exact))
        return reinforced

    forget = RowSet("forget", (Row("forget/0", "", "text", "0"),))
    preparation: Any = SimpleNamespace(
        sets=SimpleNamespace(forget=forget), template=SimpleNamespace(encode_set=lambda rows: rows), fine_tune=fine_tune
    )
    TaskVector(alpha=0.5).apply(model, preparation)
    assert asked == [("reinforced", forget, 10, True)]
    for name, value in model.named_parameters():
        change = reinforced.get_parameter(name) - before[name]
        torch.testing.assert_close(value, before[name] - 0.5 * change)


def small_recipe(alpha: float) -> dict[str, Any]:
    train = {"lr": 1e-3, "batch_size": 8, "max_length": 128, "steps": 2}
    return {
        "name": "edit",
        "model": {
            "scratch": {
                "hidden_size": 16,
                "num_layers": 1,
                "num_heads": 2,
                "intermediate_size": 16,
                "vocab_size": 400,
                "max_length": 128,
            }
        },
        "data": {"name": "synthetic", "num_people": 4, "forget_fraction": 0.25},
        "target": train,
        "method": {"name": "taskvector", "alpha": alpha, "train": train},
        "evaluate": {"benchmarks": [], "before": False},
    }


@pytest.mark.slow
def test_a_sweep_over_alpha_fine_tunes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Target and reinforced model are trained for the first alpha; the second alpha needs no training."""
    trained: list[str] = []
    original = models.train
    monkeypatch.setattr(models, "train", lambda job: (trained.append(job.title), original(job))[1])
    weights = []
    for alpha in (1.0, 3.0):
        summary = run(parse_recipe(small_recipe(alpha)), runs=tmp_path)
        checkpoint = Path(summary.folder) / "checkpoint/model.safetensors"
        from safetensors.torch import load_file

        weights.append(load_file(checkpoint))
    assert trained == ["Training the target", "Training reinforced"]
    (target,) = tmp_path.glob("shared/model-*/model/model.safetensors")
    start = load_file(target)
    for name, value in start.items():
        one, three = weights[0][name] - value, weights[1][name] - value
        torch.testing.assert_close(three, 3 * one, rtol=1e-3, atol=1e-6)
    assert any(not torch.equal(weights[0][name], value) for name, value in start.items())


def test_settings_without_effect_are_refused() -> None:
    recipe = small_recipe(1.0)
    with pytest.raises(ConfigError, match="train: has no effect; the method taskvector edits weights"):
        parse_recipe({**recipe, "train": recipe["target"]})
    with pytest.raises(ConfigError, match=r"model\.lora has no effect"):
        parse_recipe({**recipe, "model": {**recipe["model"], "lora": {}}})

"""Trainings with stored hidden states have the same losses and weights as trainings that compute all of them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

from expunge.config.recipe import Train
from expunge.errors import IncompatibleError
from expunge.methods.adaptivermu import AdaptiveRMU
from expunge.methods.bases.steering import SteeringMethod
from expunge.methods.rmu import RMU
from expunge.methods.rmulat import RMULAT
from expunge.modeling.hidden.row_store import RowStore
from expunge.training.job import Job
from expunge.training.trainer import train

SETS = {"forget": tiny.rows(8, seed=1), "retain": tiny.rows(8, seed=2)}
STEERED = {"layer": 2, "update_layers": [1, 2], "alpha": [3.0]}
SAME_BATCHES = {"order": "file", "retain_pairing": "modulo", "batch_size": 4, "device_batch_size": 4, "steps": 6}
"""Six batches: two different ones, three times each."""
RANDOM_BATCHES = {"batch_size": 4, "device_batch_size": 2, "steps": 5}


def build(kind: str = "llama", **extra: Any) -> Any:
    config = transformers.AutoConfig.for_model(
        kind,
        **{**tiny.ARCHITECTURES["llama"], "vocab_size": tiny.VOCAB, "num_hidden_layers": 3, "pad_token_id": 0, **extra},
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.3)
    return model


def run(folder: Path, method: SteeringMethod, plan: dict[str, Any], model: Any = None, **job: Any) -> dict[str, Any]:
    """Train with a large learning rate; return log lines, weights, and how often each layer's MLP was run."""
    model = build() if model is None else model
    names, ran = method.trainable(model), Counter()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    batches = tiny.plan(SETS, **plan)
    objective = method.objective(batches.steps, 2.0)
    start = objective.start
    # `can_store` runs the layers too.
    objective.start = lambda argument: (start(argument), ran.clear())
    for index, layer in enumerate(getattr(model.base_model, "layers", ())):
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.update([index]))
    config = Train(steps=batches.steps, lr=1e-2, warmup_epochs=0, max_grad_norm=0, checkpoint_epochs=9)
    train(Job("Test", model, batches, objective, config, folder, seed=0, **job))
    return {
        "lines": tiny.log_lines(folder / "train.jsonl"),
        "weights": {name: value.clone() for name, value in model.named_parameters() if name in names},
        "ran": ran,
        "store": objective.steering.store,
    }


def assert_equal_runs(result: dict[str, Any], reference: dict[str, Any]) -> None:
    """Losses are equal to rounding; AdamW amplifies rounding to up to a tenth of its steps."""
    for line, expected in zip(result["lines"], reference["lines"], strict=True):
        assert line["terms"] == pytest.approx(expected["terms"], rel=1e-4, abs=1e-6)
    for name, value in result["weights"].items():
        torch.testing.assert_close(value, reference["weights"][name], rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", [RMU, AdaptiveRMU])
def test_equal_bits_in_equal_batches(tmp_path, kind):
    """Packed batches that are repeated unchanged: losses and weights are equal to the last bit.

    The first layer runs once per set, in the first two of six steps with a store and in all without; the others once
    for forget, once for retain, and once for the frozen pass until it is stored. `can_pack` runs each twice before.
    """
    plain, stored = (
        run(tmp_path / str(gib), kind(**STEERED, positions="labels", store_gib=gib), SAME_BATCHES) for gib in (0, 1)
    )
    assert stored["lines"] == plain["lines"]
    assert tiny.weights_hash(stored["weights"]) == tiny.weights_hash(plain["weights"])
    assert dict(plain["ran"]) == {0: 12 + 2, 1: 18 + 2, 2: 18 + 2}
    assert dict(stored["ran"]) == {0: 4 + 2, 1: 14 + 2, 2: 14 + 2}
    assert stored["store"]._states == {}


def test_padding_in_equal_batches(tmp_path):
    """All padding of a row has one stored state, but its columns can differ in the last bit.

    A row without padding at one visit has none at the next either, so nothing is computed twice.
    """
    plain, stored = (
        run(tmp_path / str(gib), RMU(**STEERED, positions="all", store_gib=gib), SAME_BATCHES) for gib in (0, 1)
    )
    for line, expected in zip(stored["lines"], plain["lines"], strict=True):
        assert line["terms"] == pytest.approx(expected["terms"], rel=1e-6, abs=1e-9)
    assert_equal_runs(stored, plain)
    assert dict(stored["ran"]) == {0: 4 + 2, 1: 14 + 2, 2: 14 + 2}


@pytest.mark.parametrize("positions", ["all", "labels"])
def test_random_batches_and_a_small_store(tmp_path, positions):
    """Random batches in two micro-batches, with some rows stored: 3 KiB are enough for two or three rows only."""
    plain, little, much = (
        run(tmp_path / str(gib), RMU(**STEERED, positions=positions, store_gib=gib), RANDOM_BATCHES)
        for gib in (0, 3e-6, 1)
    )
    assert_equal_runs(little, plain)
    assert_equal_runs(much, plain)
    assert much["ran"][0] < plain["ran"][0]


@pytest.mark.parametrize("kind", ["gemma2", "gpt_neox"])
def test_other_decoders(tmp_path, kind):
    """Alternating kinds of layers, whose masks are chosen by index, and different positions of norms."""
    extra = {"head_dim": 6, "sliding_window": 64} if kind == "gemma2" else {}
    method = {**STEERED, "update_modules": ["mlp.*.weight"]}
    plain, stored = (
        run(tmp_path / str(gib), RMU(**method, store_gib=gib), RANDOM_BATCHES, build(kind, **extra)) for gib in (0, 1)
    )
    assert stored["store"] is not None
    assert_equal_runs(stored, plain)


def test_lowest_layer_trained_and_gradient_checkpointing(tmp_path):
    """Layer 0 has nothing below it: only the frozen hidden states of retain rows are stored."""
    method = {**STEERED, "update_layers": [0, 2], "positions": "labels"}
    plain, stored, checkpointed = (
        run(tmp_path / str(number), RMU(**method, store_gib=gib), SAME_BATCHES, gradient_checkpointing=number == 2)
        for number, gib in enumerate((0, 1, 1))
    )
    assert dict(plain["ran"]) == {0: 18 + 2, 1: 18 + 2, 2: 18 + 2}
    assert dict(stored["ran"]) == {0: 14 + 2, 1: 14 + 2, 2: 14 + 2}
    assert stored["lines"] == plain["lines"]
    assert_equal_runs(checkpointed, plain)


def test_gradient_checkpointing_with_layers_below(tmp_path):
    plain, stored = (
        run(tmp_path / str(gib), RMU(**STEERED, store_gib=gib), RANDOM_BATCHES, gradient_checkpointing=True)
        for gib in (0, 1)
    )
    assert_equal_runs(stored, plain)


def test_attacked_rows_are_computed(tmp_path):
    """The attack has a vector for each row of the batch, so only retain rows are stored."""
    method = {**STEERED, "inner_steps": 1}
    plain, stored = (run(tmp_path / str(gib), RMULAT(**method, store_gib=gib), SAME_BATCHES) for gib in (0, 1))
    assert_equal_runs(stored, plain)
    assert stored["ran"][0] == plain["ran"][0] - 4


def test_half_precision(tmp_path, monkeypatch):
    """Hidden states between layers stay in float32 under autocast, and are stored in it."""
    dtypes, keep = set(), RowStore.keep
    monkeypatch.setattr(RowStore, "keep", lambda *args: (dtypes.update(x.dtype for x in args[-1]), keep(*args)))
    method = {**STEERED, "positions": "labels"}
    plain, stored = (run(tmp_path / str(gib), RMU(**method, store_gib=gib), SAME_BATCHES, bf16=True) for gib in (0, 1))
    assert stored["lines"] == plain["lines"]
    assert dtypes == {torch.float32}


def test_training_without_a_second_visit_stores_nothing(tmp_path, monkeypatch):
    once = {"steps": 2, "batch_size": 4, "device_batch_size": 4}
    assert run(tmp_path / "default", RMU(**STEERED), once)["store"] is None
    with pytest.raises(IncompatibleError, match=r"method.store_gib has no effect: no row .* visited twice"):
        run(tmp_path / "set", RMU(**STEERED, store_gib=3), once)
    # Eight forget rows twice, 8 of 16 retain rows once; below layer 0 there is nothing to store for forget rows.
    lowest = {**STEERED, "update_layers": [0]}
    monkeypatch.setitem(SETS, "retain", tiny.rows(16, seed=2))
    assert run(tmp_path / "lowest", RMU(**lowest), {**RANDOM_BATCHES, "steps": 4})["store"] is None
    with pytest.raises(IncompatibleError, match=r"different hidden states each time"):
        run(tmp_path / "dropout", RMU(**STEERED, store_gib=3), RANDOM_BATCHES, build(attention_dropout=0.5))


def test_visits_are_counted_over_the_whole_training():
    """Three steps of 6 from 8 rows are 18 visits: two passes and a quarter."""
    plan = tiny.plan(SETS, steps=3, batch_size=6)
    visits = plan.visits()
    assert sorted(visits["forget"].values()) == [2] * 6 + [3] * 2
    expected = Counter(row for step in range(3) for row in plan.rows_of(step)["retain"])
    assert visits["retain"] == dict(expected)
    assert set(tiny.plan(SETS, steps=1, batch_size=5).visits()["forget"].values()) == {1}

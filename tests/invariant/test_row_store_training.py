"""Trainings that read hidden states of rows that come again: the same numbers as when all of them are computed."""

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
SAME_COMPANY = {"order": "file", "pairing": "modulo", "batch_size": 4, "device_batch_size": 4, "steps": 6}
"""Six batches of which each of two comes three times."""
OTHERS = {"batch_size": 4, "device_batch_size": 2, "steps": 5}


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
    """A training with steps of a size that shows: its lines, its weights, and how often each layer's MLP was run."""
    model = build() if model is None else model
    names, ran = method.trainable(model), Counter()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    made = tiny.plan(SETS, **plan)
    objective = method.objective(made.steps, 2.0)
    start = objective.start
    # What is tried before the first step is not counted.
    objective.start = lambda given: (start(given), ran.clear())
    for index, layer in enumerate(getattr(model.base_model, "layers", ())):
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.update([index]))
    config = Train(steps=made.steps, lr=1e-2, warmup_epochs=0, max_grad_norm=0, checkpoint_epochs=9)
    train(Job("Test", model, made, objective, config, folder, seed=0, **job))
    return {
        "lines": tiny.log_lines(folder / "train.jsonl"),
        "weights": {name: value.clone() for name, value in model.named_parameters() if name in names},
        "ran": ran,
        "store": objective.steering.store,
    }


def same_numbers(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal to rounding in each logged number; AdamW turns rounding into up to a tenth of its steps."""
    for line, expected in zip(one["lines"], other["lines"], strict=True):
        assert line["terms"] == pytest.approx(expected["terms"], rel=1e-4, abs=1e-6)
    for name, value in one["weights"].items():
        torch.testing.assert_close(value, other["weights"][name], rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", [RMU, AdaptiveRMU])
def test_the_same_bits_in_the_same_company(tmp_path, kind):
    """Packed batches that come again as they were: no bit of any number differs.

    The first layer runs for each set, in the first two of six steps with a store and in all without; the others for
    forget, for retain, and, until that is known, for the start model. `can_pack` runs each twice beforehand.
    """
    plain, stored = (
        run(tmp_path / str(room), kind(**STEERED, positions="labels", store_gib=room), SAME_COMPANY) for room in (0, 1)
    )
    assert stored["lines"] == plain["lines"]
    assert tiny.weights_hash(stored["weights"]) == tiny.weights_hash(plain["weights"])
    assert dict(plain["ran"]) == {0: 12 + 2, 1: 18 + 2, 2: 18 + 2}
    assert dict(stored["ran"]) == {0: 4 + 2, 1: 14 + 2, 2: 14 + 2}
    assert stored["store"]._states == {}


def test_padding_in_the_same_company(tmp_path):
    """One state stands for all padding of a row, whose columns differ in their last bit, where kernels add otherwise.

    A row without padding at one visit has none at the next either, so nothing is computed twice.
    """
    plain, stored = (
        run(tmp_path / str(room), RMU(**STEERED, positions="all", store_gib=room), SAME_COMPANY) for room in (0, 1)
    )
    for line, expected in zip(stored["lines"], plain["lines"], strict=True):
        assert line["terms"] == pytest.approx(expected["terms"], rel=1e-6, abs=1e-9)
    same_numbers(stored, plain)
    assert dict(stored["ran"]) == {0: 4 + 2, 1: 14 + 2, 2: 14 + 2}


@pytest.mark.parametrize("positions", ["all", "labels"])
def test_other_company_and_little_room(tmp_path, positions):
    """Random batches, cut in two, of which rows are partly known: some 3 KiB hold two or three rows only."""
    plain, little, much = (
        run(tmp_path / str(room), RMU(**STEERED, positions=positions, store_gib=room), OTHERS) for room in (0, 3e-6, 1)
    )
    same_numbers(little, plain)
    same_numbers(much, plain)
    assert much["ran"][0] < plain["ran"][0]


@pytest.mark.parametrize("kind", ["gemma2", "gpt_neox"])
def test_other_decoders(tmp_path, kind):
    """Layers of two kinds in turn, whose masks are found by their number; norms in other places."""
    extra = {"head_dim": 6, "sliding_window": 64} if kind == "gemma2" else {}
    method = {**STEERED, "update_modules": ["mlp.*.weight"]}
    plain, stored = (
        run(tmp_path / str(room), RMU(**method, store_gib=room), OTHERS, build(kind, **extra)) for room in (0, 1)
    )
    assert stored["store"] is not None
    same_numbers(stored, plain)


def test_lowest_layer_trained_and_gradient_checkpointing(tmp_path):
    """Nothing lies below the lowest layer: only the start's states of retain rows are kept."""
    method = {**STEERED, "update_layers": [0, 2], "positions": "labels"}
    plain, stored, again = (
        run(tmp_path / str(number), RMU(**method, store_gib=room), SAME_COMPANY, gradient_checkpointing=number == 2)
        for number, room in enumerate((0, 1, 1))
    )
    assert dict(plain["ran"]) == {0: 18 + 2, 1: 18 + 2, 2: 18 + 2}
    assert dict(stored["ran"]) == {0: 14 + 2, 1: 14 + 2, 2: 14 + 2}
    assert stored["lines"] == plain["lines"]
    same_numbers(again, plain)


def test_gradient_checkpointing_with_layers_below(tmp_path):
    plain, stored = (
        run(tmp_path / str(room), RMU(**STEERED, store_gib=room), OTHERS, gradient_checkpointing=True)
        for room in (0, 1)
    )
    same_numbers(stored, plain)


def test_attacked_rows_are_computed(tmp_path):
    """The attack has a vector for each row of the batch; only retain rows are kept."""
    method = {**STEERED, "inner_steps": 1}
    plain, stored = (run(tmp_path / str(room), RMULAT(**method, store_gib=room), SAME_COMPANY) for room in (0, 1))
    same_numbers(stored, plain)
    assert stored["ran"][0] == plain["ran"][0] - 4


def test_half_precision(tmp_path, monkeypatch):
    """The states between layers stay in float32 under autocast, and are kept so."""
    kinds, keep = set(), RowStore.keep
    monkeypatch.setattr(RowStore, "keep", lambda *args: (kinds.update(each.dtype for each in args[-1]), keep(*args)))
    method = {**STEERED, "positions": "labels"}
    plain, stored = (
        run(tmp_path / str(room), RMU(**method, store_gib=room), SAME_COMPANY, bf16=True) for room in (0, 1)
    )
    assert stored["lines"] == plain["lines"]
    assert kinds == {torch.float32}


def test_training_without_a_second_visit_keeps_nothing(tmp_path, monkeypatch):
    once = {"steps": 2, "batch_size": 4, "device_batch_size": 4}
    assert run(tmp_path / "default", RMU(**STEERED), once)["store"] is None
    with pytest.raises(IncompatibleError, match=r"method.store_gib has no effect: no row .* visited twice"):
        run(tmp_path / "set", RMU(**STEERED, store_gib=3), once)
    # Eight forget rows twice, as many of 16 retain rows once; below layer 0 forget rows have no states.
    lowest = {**STEERED, "update_layers": [0]}
    monkeypatch.setitem(SETS, "retain", tiny.rows(16, seed=2))
    assert run(tmp_path / "lowest", RMU(**lowest), {**OTHERS, "steps": 4})["store"] is None
    with pytest.raises(IncompatibleError, match=r"different hidden states each time"):
        run(tmp_path / "dropout", RMU(**STEERED, store_gib=3), OTHERS, build(attention_dropout=0.5))


def test_visits_are_counted_over_the_whole_training():
    """Of 8 rows in steps of 6: 18 places are two passes and a quarter."""
    plan = tiny.plan(SETS, steps=3, batch_size=6)
    counted = plan.visits()
    assert sorted(counted["forget"].values()) == [2] * 6 + [3] * 2
    seen = Counter(row for step in range(3) for row in plan.rows_of(step)["retain"])
    assert counted["retain"] == dict(seen)
    assert set(tiny.plan(SETS, steps=1, batch_size=5).visits()["forget"].values()) == {1}

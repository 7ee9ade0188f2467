"""Operations and seconds of a step against hand-computed values."""

import dataclasses

import pytest

from expunge.planning.gpus import Gpu, gpus
from expunge.planning.shape import Shape
from expunge.planning.throughput import UTILISATION, step_flops, step_seconds

SHAPE = Shape(
    hidden=10,
    queries=10,
    inner=20,
    heads=2,
    layers=4,
    vocab=30,
    tied=False,
    num_parameters=4 * 1000 + 2 * 300,
    num_trainable=4 * 1000 + 2 * 300,
    trained="all",
    rank=0,
    first=0,
    last=3,
    num_copied=0,
)


def flops(shape: Shape = SHAPE, **changes) -> float:
    return step_flops(shape, **{"positions": 100, "answers": 50, "width": 0, **changes})


def test_full_training_takes_six_operations_per_weight_and_position():
    """4000 weights in layers at 100 positions, 300 in the output layer at 50; embedding look-ups take no operations."""
    assert flops() == 6 * 4000 * 100 + 6 * 300 * 50


def test_attention_checkpointing_and_references():
    """Attention: 4 q w per position and layer, three times. Checkpointing and a reference: one forward pass each."""
    forward = 2 * 4000 * 100
    assert flops(width=7) - flops() == 2 * 4 * 100 * 4 * 10 * 7
    assert flops(checkpointing=True) - flops() == forward
    assert flops(compared="stored") - flops() == 2 * 300 * 50
    assert flops(compared="copy") - flops() == forward + 2 * 300 * 50


def test_frozen_weights_have_no_gradient():
    """An adapter of 80 values: forward and backward through 4000 frozen weights, 2 operations per trained value."""
    adapter = dataclasses.replace(SHAPE, trained="adapter", num_trainable=80)
    assert flops(adapter) == 4 * 4000 * 100 + 4 * 300 * 50 + 2 * 80 * 100


def test_steering_runs_only_the_layers_it_needs():
    """Layer 2 steered, 1 and 2 trained: 3 layers forward, 2 again for half of the rows, 2 backward."""
    steered = dataclasses.replace(SHAPE, trained="some", num_trainable=400, num_copied=400, first=1, last=2)
    assert flops(steered) == (3 + 1 + 2) * 2 * 1000 * 100 + 2 * 400 * 100


def test_a_method_that_stops_early_runs_no_output_layer():
    """Layers 0 to 2 forward, layers 1 and 2 backward; with all four layers, 300 weights of the output layer twice."""
    early = dataclasses.replace(SHAPE, trained="some", num_trainable=400, first=1, last=2)
    assert flops(early) == (3 + 2) * 2 * 1000 * 100 + 2 * 400 * 100
    late = dataclasses.replace(early, last=3)
    assert flops(late) == (4 + 3) * 2 * 1000 * 100 + 2 * 2 * 300 * 50 + 2 * 400 * 100


def test_seconds_are_arithmetic_and_traffic():
    """10^12 operations at 40 per cent of 10^12 per second: 2.5 s. Casts of 4600 weights twice, 6 bytes each, and 28
    bytes per trained weight, at 10^9 bytes per second. Four GPUs take a quarter.
    """
    gpu = Gpu(name="one", memory_gb=1, bf16_tflops=1, bandwidth_gb_per_second=1, source="this test")
    expected = 1 / UTILISATION + (2 * 6 + 28) * 4600 / 1e9
    assert step_seconds(gpu, SHAPE, 1e12, micro_batches=2, half=True) == pytest.approx(expected)
    assert step_seconds(gpu, SHAPE, 1e12, micro_batches=2, half=True, num_gpus=4) == pytest.approx(expected / 4)


def test_the_cards_are_plausible():
    """Every card has 100 to 1000 operations per byte of bandwidth, a source, and a unique name."""
    cards = gpus()
    assert len({gpu.name for gpu in cards}) == len(cards) == 6
    for gpu in cards:
        assert 100 < gpu.bf16_tflops * 1e3 / gpu.bandwidth_gb_per_second < 1000
        assert gpu.source
        assert gpu.usable_bytes < gpu.memory_gb * 1e9

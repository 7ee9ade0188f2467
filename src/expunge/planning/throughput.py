"""Seconds of an optimiser step on a GPU, from its arithmetic and its memory traffic.

A rough estimate: the counts are exact to a few per cent, but the utilisation is an assumption.
"""

from __future__ import annotations

from expunge.modeling.logprobs import CHUNK_ELEMENTS
from expunge.planning.gpus import Gpu
from expunge.planning.shape import Shape

UTILISATION = 0.4
"""Share of a card's peak that a training with long rows reaches; small models and short rows reach less."""
_ADAM_BYTES = 28
"""Bytes per trained parameter: weight, gradient and two moments are read, weight and two moments written."""
_CAST_BYTES = 6
"""Bytes per weight and forward pass: read in float32, written in half precision."""


def step_flops(
    shape: Shape,
    *,
    positions: float,
    answers: float,
    width: float,
    checkpointing: bool = False,
    compared: str = "",
) -> float:
    """Return the floating-point operations of one optimiser step.

    With P weights, P_l of them in decoder layers, a vocabulary of V, hidden size h and query width q, a forward pass
    takes 2 operations per weight and position: 2 P_l N in the layers, 2 V h in the output layer for each answer
    token, and 4 q w in attention, for N positions in rows of w columns. The backward pass takes twice that, half of
    it for the gradients of trained weights: 6 P N in all, or about 4 P N with LoRA. Gradient checkpointing adds a
    forward pass, as does a frozen reference.

    A method that stops at layer l runs layers 0 to l without the output layer, and its backward pass reaches the lowest
    trained layer f. If it compares hidden states, it runs layers f to l again with the frozen weights, for half of
    the rows.

    Args:
        shape: Counts of the model.
        positions: N, over all micro-batches of the step.
        answers: Answer tokens among them.
        width: w.
        checkpointing: Whether activations are recomputed in the backward pass.
        compared: 'copy' for a reference that is run at every step, 'stored' for its stored hidden states, '' for none.
    """
    layer = positions * (2 * shape.per_layer + 4 * shape.queries * width)
    reach = shape.last - shape.first + 1
    weight_gradients = 2 * shape.num_trainable * positions
    if shape.num_copied:
        forward = (shape.last + 1 + reach / 2) * layer
        return forward + reach * layer + weight_gradients
    head = 2 * shape.head * answers if shape.last == shape.layers - 1 else 0
    if shape.num_trainable == shape.num_parameters:
        # Embeddings are looked up, not multiplied; tied ones are multiplied as the output layer.
        embedded = 0 if shape.tied else shape.head
        weight_gradients = 2 * positions * (shape.num_parameters - shape.head - embedded) + head
    chunked = answers * shape.vocab > CHUNK_ELEMENTS
    total = ((shape.last + 1) * layer + head) + (reach * layer + head) + weight_gradients
    total += (reach * layer if checkpointing else 0) + (head if chunked else 0)
    if compared:
        total += head + (shape.layers * layer if compared == "copy" else 0)
    return total


def step_seconds(gpu: Gpu, shape: Shape, flops: float, *, micro_batches: int, half: bool, num_gpus: int = 1) -> float:
    """Return the seconds of one optimiser step.

    flops / (utilisation * peak) + (6 P * micro-batches + 28 T / k) / bandwidth, with the flops of one of k GPUs

    The traffic is that of casting P weights to half precision, and of Adam on T trained weights. Communication between
    GPUs is left out.

    Args:
        gpu: The card.
        shape: Counts of the model.
        flops: Operations of the step on all GPUs.
        micro_batches: Micro-batches per process and step.
        half: Whether weights are cast for each forward pass; the peak is that of bfloat16 in any case.
        num_gpus: k.
    """
    cast = _CAST_BYTES * shape.num_parameters * micro_batches if half and shape.trained != "adapter" else 0
    traffic = (cast + _ADAM_BYTES * shape.num_trainable) / num_gpus
    arithmetic = flops / num_gpus / (UTILISATION * gpu.bf16_tflops * 1e12)
    return arithmetic + traffic / (gpu.bandwidth_gb_per_second * 1e9)

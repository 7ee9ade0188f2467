"""Memory of a training, estimated from the counts of its model and of its micro-batch.

Nothing is measured here. Each part is a product of counts in a docstring, which shows the settings that would shrink
it. `python -m perf.plan` compares the estimates with measured peaks.
"""

from __future__ import annotations

from expunge.config.recipe import Recipe, Train
from expunge.methods.base import Needs
from expunge.modeling.logprobs import CHUNK_ELEMENTS
from expunge.planning.shape import MicroBatch, Shape
from expunge.records import Record

_STATE_BYTES = {"sgd": 0, "adafactor": 0, "lion": 4, "adagrad": 4, "rmsprop": 4}
"""Bytes of optimiser state per trained parameter; Adam's two float32 moments take 8."""
RUNTIME_BYTES = 20 * 2**20
"""CPU memory of the libraries at their first computation: code, threads, small caches."""


class MemoryEstimate(Record):
    """Bytes of one training process."""

    num_parameters: int
    num_trainable: int
    parts: dict[str, int]
    """Bytes by part: weights, gradients, optimizer, reference, autocast, activations, logits, runtime. Their sum is not
    the total, because not all are allocated at the same time."""
    moments: dict[str, int]
    """Bytes by moment: preparation, forward (before the backward pass begins), backward (with all gradients), measured
    (FSDP: a scoring pass between epochs)."""
    total_bytes: int
    """Largest of the moments."""
    how: str
    """Basis of the estimate."""


def memory_estimate(
    recipe: Recipe,
    shape: Shape,
    train: Train,
    batch: MicroBatch,
    *,
    scored_positions: int = 0,
    num_gpus: int = 1,
) -> MemoryEstimate:
    """Estimate the memory of a training on one device.

    With P parameters of which T are trained, on k devices that share the weights (FSDP):

    - weights: 4 P / k bytes; with LoRA P in the recipe's precision, the adapters 4 T, and 4 bytes per weight of an
      adapter below them (`model.adapter: stacked`).
    - gradients: 4 T / k. optimizer: 8 T / k for Adam (8-bit optimisers: 2 T / k), and 4 T / k for each gradient that
      the method keeps (`Needs.kept_gradients`).
    - reference: see `reference_bytes`.
    - autocast: 2 P, the half-precision copies of float32 weights that a forward pass saves for the backward pass.
      With FSDP also the gathered weights, see `_gathered`; with gradient checkpointing the copies of one layer only,
      because the others are gathered and run again.
    - activations: see `activation_bytes`; logits: see `logits_bytes`.

    Moments: before the backward pass begins, weights, optimizer, reference, autocast and activations are allocated, and
    the larger of logits and one layer's activation gradients with the output layer's gradient; gradients only if they
    are accumulated over several micro-batches. When it ends, all gradients are allocated, but neither activations nor
    half-precision copies; with FSDP also gathered weights and their gradients before reduce-scatter. Before the first
    step, references are computed without gradient. For saving, tensors are gathered one at a time.

    Args:
        recipe: The recipe.
        shape: Counts of the model.
        train: The training's settings, such as `recipe.train`.
        batch: The widest micro-batch.
        scored_positions: Padded tokens per forward pass when references are computed; 0 if there are none.
        num_gpus: Devices that share weights, gradients and optimiser.
    """
    half = recipe.model.dtype != "float32"
    needs = recipe.method.needs() if train is recipe.train else Needs()
    compared = needs.reference
    weights = 4 * shape.num_parameters
    if shape.trained == "adapter":
        weights = (2 if half else 4) * shape.num_parameters + 4 * (shape.num_trainable + shape.num_stacked)
    copy_dtype, copy_device = recipe.model.frozen_dtype or recipe.model.dtype, recipe.model.frozen_device
    parts = {
        "weights": weights // num_gpus,
        "gradients": 4 * shape.num_trainable // num_gpus,
        "optimizer": (_state_bytes(train.optimizer) + 4 * needs.kept_gradients) * shape.num_trainable // num_gpus,
        "reference": reference_bytes(
            shape,
            compared,
            num_gpus,
            half=copy_dtype != "float32",
            elsewhere=copy_device not in {None, "cuda:0", recipe.model.device},
        )
        + 4 * shape.num_copied,
        "autocast": _copies(shape, half, num_gpus, recipe.model.gradient_checkpointing),
        "activations": activation_bytes(
            shape,
            batch,
            half=half,
            checkpointing=recipe.model.gradient_checkpointing,
            eager=recipe.model.attention == "eager",
        ),
        "logits": logits_bytes(shape, batch.answers, compared=bool(compared)) if shape.last == shape.layers - 1 else 0,
        "runtime": RUNTIME_BYTES,
    }
    moments = _moments(parts, shape, train, batch, half, scored_positions, num_gpus)
    if num_gpus > 1:
        resident = sum(parts[name] for name in ("weights", "optimizer", "reference", "runtime"))
        moments["measured"] = resident + _scoring_bytes(shape, half, recipe.evaluate.batch_tokens, num_gpus)
    return MemoryEstimate(
        num_parameters=shape.num_parameters,
        num_trainable=shape.num_trainable,
        parts=parts,
        moments=moments,
        total_bytes=max(moments.values()),
        how=f"estimated from the model's shape for {batch.rows} rows, run as {batch.positions} tokens; not measured",
    )


def _moments(
    parts: dict[str, int],
    shape: Shape,
    train: Train,
    batch: MicroBatch,
    half: bool,
    scored_positions: int,
    num_gpus: int,
) -> dict[str, int]:
    """Return the bytes of each moment but 'measured', as `memory_estimate` describes them."""
    weights = parts["weights"] + parts["runtime"]
    resident = weights + parts["optimizer"] + parts["reference"]
    # A matrix that is both input and output layer gets its gradient in two parts.
    output_gradient = 4 * shape.head if shape.trained == "all" and shape.last == shape.layers - 1 else 0
    layer_gradients = batch.positions * (2 if half else 4) * 3 * (shape.hidden + shape.inner)
    accumulated = parts["gradients"] if train.batch_size > train.device_batch_size else 0
    moments = {
        "forward": resident
        + parts["autocast"]
        + parts["activations"]
        + accumulated
        + max(parts["logits"], output_gradient + layer_gradients),
        "backward": resident + parts["gradients"] + (output_gradient if shape.tied else 0),
    }
    if num_gpus > 1:
        unreduced = _gathered(shape, 4) if shape.trained == "all" else 0
        moments["backward"] += _gathered(shape, _weight_bytes(shape, half)) + unreduced
    if scored_positions:
        moments["preparation"] = weights + _scoring_bytes(shape, half, scored_positions, num_gpus)
    return moments


def _scoring_bytes(shape: Shape, half: bool, positions: int, num_gpus: int) -> int:
    """Return the bytes of a forward pass without gradient: weight copies and one layer's activations or some logits."""
    activations = positions * (2 if half else 4) * 3 * (shape.hidden + shape.inner)
    chunk = 8 * min(positions * shape.vocab, CHUNK_ELEMENTS)
    return _copies(shape, half, num_gpus, checkpointing=num_gpus > 1) + max(activations, chunk)


def activation_bytes(
    shape: Shape, batch: MicroBatch, *, half: bool, checkpointing: bool = False, eager: bool = False
) -> int:
    """Return the bytes that a forward pass saves for the backward pass.

    Per position and layer, with hidden size h, width of all query heads q, intermediate size i, rows of w columns:

    - float32: 4 (6 h + 5 q + 4 i + w): two norms save input, normalised and output (6 h); attention saves
      queries, keys and values repeated to all heads, and its output in two layouts (5 q); the gated MLP saves
      gate, its activation, up and their product (4 i); the mask is added to scores in the weights' precision (w).
    - half precision under autocast: 26 h + 10 q + 8 i + 2 w: norms stay in float32 (16 h), and each of five linear
      layers saves a half-precision copy of its input (10 h).
    - LoRA of rank r: the frozen norms save 2 h values less, and each of seven adapters saves r.
    - a few modules: 2 h + 4 q + 4 i + w values, since frozen linear layers save no input; in the lowest trained layer
      the input of its last matrix only, i.
    - eager attention adds the score matrix before and after softmax: 2 x heads x w values.

    With gradient checkpointing each layer saves its input only, and one layer at a time saves everything.
    """
    h, q, i, w = shape.hidden, shape.queries, shape.inner, batch.width
    size = 2 if half else 4
    scores = size * (w + (2 * shape.heads * w if eager else 0))
    if shape.trained == "some":
        per_layer = 8 * h + size * (4 * q + 4 * i) + scores
        return int(batch.positions * ((shape.last - shape.first) * per_layer + size * i))
    if shape.trained == "adapter":
        per_layer = (18 * h + 10 * q + 8 * i if half else 4 * (4 * h + 5 * q + 4 * i)) + size * 7 * shape.rank
    else:
        per_layer = 26 * h + 10 * q + 8 * i if half else 4 * (6 * h + 5 * q + 4 * i)
    layers = shape.last - shape.first + 1
    if checkpointing:
        stream = 2 if half and shape.trained == "adapter" else 4
        return int(batch.positions * (layers * stream * h + per_layer + scores))
    return int(batch.positions * layers * (per_layer + scores))


def logits_bytes(shape: Shape, answers: list[int], *, compared: bool = False) -> int:
    """Return the bytes of float32 logits at answer positions, with the tensors that are computed from them.

    In its set's backward pass a logit takes 12 bytes: its log-softmax and the gradients of both. Until then it takes 4
    for the log-softmax, or none if the set is projected in chunks, which are recomputed. A comparison with the
    reference's logits doubles all of this.
    """
    saved, transient = 0, 0
    for count in answers:
        elements = count * shape.vocab
        chunked = elements > CHUNK_ELEMENTS
        saved += 0 if chunked else 4 * elements
        transient = max(transient, 12 * CHUNK_ELEMENTS if chunked else 8 * elements)
    return (2 if compared else 1) * (saved + transient)


def reference_bytes(
    shape: Shape, compared: bool | tuple[str, ...], num_gpus: int = 1, half: bool = False, elsewhere: bool = False
) -> int:
    """Return the bytes of the reference, for losses that compare predictions with it at every step.

    A frozen copy takes 4 P bytes, or 2 P + 2 V h in half precision, where its embeddings stay in float32. If hidden
    states at answer tokens are enough, they are read from a file and only the output layer is copied: 4 V h. LoRA
    needs no copy, because its adapter can be switched off. Several GPUs shard a float32 copy, and each has unsharded
    embeddings and output layer in addition; an output layer alone is not sharded.

    Args:
        shape: Counts of the model.
        compared: `Needs.reference`.
        num_gpus: Devices that share the copy.
        half: Whether the copy is in half precision.
        elsewhere: Whether the copy is on another device.
    """
    if not compared or shape.trained == "adapter":
        return 0
    if not isinstance(compared, bool):
        return 4 * shape.head
    if num_gpus > 1:
        return 4 * shape.num_parameters // num_gpus + 4 * _ends(shape)
    if elsewhere:
        return 0
    return 2 * (shape.num_parameters + shape.head) if half else 4 * shape.num_parameters


def format_bytes(number: float) -> str:
    """Format a number of bytes with a binary unit.

    Example:
        >>> format_bytes(1536), format_bytes(25_900_000_000)
        ('1.5 KiB', '24.1 GiB')
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _copies(shape: Shape, half: bool, num_gpus: int, checkpointing: bool) -> int:
    """Return the bytes of weights that a forward pass copies to half precision or gathers from several devices."""
    cast = 0
    if half and shape.trained != "adapter":
        layers = 1 if num_gpus > 1 and checkpointing else shape.last + 1
        cast = 2 * (layers * shape.per_layer + (shape.head if shape.last == shape.layers - 1 else 0))
    return cast + (_gathered(shape, _weight_bytes(shape, half)) if num_gpus > 1 else 0)


def _gathered(shape: Shape, size: int) -> int:
    """Return the bytes of weights that FSDP gathers: the current and the next layer, and those outside of layers.

    Args:
        shape: Counts of the model.
        size: Bytes per weight.
    """
    return size * (min(2, shape.layers) * shape.per_layer + _ends(shape))


def _ends(shape: Shape) -> int:
    """Return the number of weights in the embeddings and the output layer."""
    return (1 if shape.tied else 2) * shape.head


def _weight_bytes(shape: Shape, half: bool) -> int:
    return 2 if half and shape.trained == "adapter" else 4


def _state_bytes(optimizer: str) -> int:
    if "8bit" in optimizer or "4bit" in optimizer:
        return 2
    return next((size for name, size in _STATE_BYTES.items() if name in optimizer), 8)

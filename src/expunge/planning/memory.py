"""How much memory a training will take, from the counts of its model and of its micro-batch alone.

Nothing here is measured. Each part is a product of counts that its docstring gives, so that a reader can see
which setting would shrink it. `python -m perf.plan` holds the sums against measured peaks.
"""

from __future__ import annotations

from expunge.config.recipe import Recipe, Train
from expunge.modeling.logprobs import CHUNK_ELEMENTS
from expunge.planning.shape import MicroBatch, Shape
from expunge.records import Record

_STATE_BYTES = {"sgd": 0, "adafactor": 0, "lion": 4, "adagrad": 4, "rmsprop": 4}
"""Bytes per trained parameter that an optimiser keeps; Adam's two float32 moments are 8."""
RUNTIME_BYTES = 20 * 2**20
"""What the libraries themselves take on a CPU when they first compute: code, threads, small caches."""


class MemoryEstimate(Record):
    """Bytes of one training process."""

    num_parameters: int
    num_trainable: int
    parts: dict[str, int]
    """Part -> bytes: weights, gradients, optimizer, reference, autocast, activations, logits, runtime. They do not
    add up to the total, since not all of them are there at one time."""
    moments: dict[str, int]
    """Moment -> bytes that are held then: preparation, forward (before the backward pass begins), backward (when all
    gradients are there), measured (FSDP: a scoring pass between epochs)."""
    total_bytes: int
    """The widest moment."""
    how: str
    """What the numbers rest on."""


def memory_estimate(
    recipe: Recipe,
    shape: Shape,
    train: Train,
    batch: MicroBatch,
    *,
    scored_positions: int = 0,
    num_gpus: int = 1,
) -> MemoryEstimate:
    """Memory of a training on one device at its widest moment.

    With P parameters of which T are trained, on k devices that share the weights (FSDP):

    - weights: 4 P / k bytes; with LoRA P in the recipe's precision, and the adapters 4 T.
    - gradients: 4 T / k. optimizer: 8 T / k for Adam (8-bit optimisers: 2 T / k).
    - reference: see `reference_bytes`.
    - autocast: 2 P, the half-precision copies that a forward pass makes of float32 weights and keeps for the
      backward pass. With FSDP also what is gathered, see `_gathered`; with gradient checkpointing it keeps the
      copies of one layer only, since it runs the others anew from what it gathers anew.
    - activations: see `activation_bytes`; logits: see `logits_bytes`.

    Moments: before the backward pass begins there are weights, optimizer, reference, autocast, activations, and the
    most of logits, one layer's gradients of activations, and the output layer's gradient; gradients only where they
    are accumulated over several micro-batches. When it ends there are all gradients, and neither activations nor
    half-precision copies, but with FSDP what is gathered and its gradients that are not yet shared out. Before the
    first step, references are computed without gradient. To be saved, tensors are gathered one at a time.

    Args:
        recipe: The recipe.
        shape: Counts of the model.
        train: The training: `recipe.train`, `recipe.target` or `recipe.retain_model`.
        batch: The widest micro-batch.
        scored_positions: Padded tokens per forward pass when references are computed; 0 where none are.
        num_gpus: Devices that share weights, gradients and optimiser.
    """
    parts = _parts(recipe, shape, train, batch, num_gpus)
    half = recipe.model.dtype != "float32"
    moments = _moments(parts, shape, train, batch, half, scored_positions, num_gpus)
    if num_gpus > 1:
        resident = sum(parts[part] for part in ("weights", "optimizer", "reference", "runtime"))
        moments["measured"] = resident + _scoring(shape, half, recipe.evaluate.batch_tokens, num_gpus)
    return MemoryEstimate(
        num_parameters=shape.num_parameters,
        num_trainable=shape.num_trainable,
        parts=parts,
        moments=moments,
        total_bytes=max(moments.values()),
        how=f"estimated from the model's shape for {batch.rows} rows, run as {batch.positions} tokens; not measured",
    )


def _parts(recipe: Recipe, shape: Shape, train: Train, batch: MicroBatch, num_gpus: int) -> dict[str, int]:
    """Bytes of each part, as `memory_estimate` describes them."""
    half = recipe.model.dtype != "float32"
    compared = recipe.method.needs().reference if train is recipe.train else False
    weights = 4 * shape.num_parameters
    if shape.trained == "adapter":
        weights = (2 if half else 4) * shape.num_parameters + 4 * shape.num_trainable
    return {
        "weights": weights // num_gpus,
        "gradients": 4 * shape.num_trainable // num_gpus,
        "optimizer": _state_bytes(train.optimizer) * shape.num_trainable // num_gpus,
        "reference": reference_bytes(
            shape,
            compared,
            num_gpus,
            half=(recipe.model.frozen_dtype or recipe.model.dtype) != "float32",
            elsewhere=recipe.model.frozen_device not in {None, "cuda:0", recipe.model.device},
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
        "logits": 0 if shape.last < shape.layers - 1 else logits_bytes(shape, batch.answers, compared=bool(compared)),
        "runtime": RUNTIME_BYTES,
    }


def _moments(
    parts: dict[str, int],
    shape: Shape,
    train: Train,
    batch: MicroBatch,
    half: bool,
    scored_positions: int,
    num_gpus: int,
) -> dict[str, int]:
    kept = parts["weights"] + parts["runtime"]
    resident = kept + parts["optimizer"] + parts["reference"]
    # A matrix that is both input and output layer gets its gradient in two parts.
    output_gradient = 4 * shape.head if shape.trained == "all" and shape.last == shape.layers - 1 else 0
    passing = batch.positions * (2 if half else 4) * 3 * (shape.hidden + shape.inner)
    accumulated = parts["gradients"] if train.batch_size > train.device_batch_size else 0
    moments = {
        "forward": resident
        + parts["autocast"]
        + parts["activations"]
        + accumulated
        + max(parts["logits"], output_gradient + passing),
        "backward": resident + parts["gradients"] + (output_gradient if shape.tied else 0),
    }
    if num_gpus > 1:
        unshared = _gathered(shape, 4) if shape.trained == "all" else 0
        moments["backward"] += _gathered(shape, _weight_bytes(shape, half)) + unshared
    if scored_positions:
        moments["preparation"] = kept + _scoring(shape, half, scored_positions, num_gpus)
    return moments


def _scoring(shape: Shape, half: bool, positions: int, num_gpus: int) -> int:
    """A forward pass without gradient, beside the weights: copies of these, one layer's activations or a chunk."""
    scored = positions * (2 if half else 4) * 3 * (shape.hidden + shape.inner)
    chunk = 8 * min(positions * shape.vocab, CHUNK_ELEMENTS)
    return _copies(shape, half, num_gpus, checkpointing=num_gpus > 1) + max(scored, chunk)


def activation_bytes(
    shape: Shape, batch: MicroBatch, *, half: bool, checkpointing: bool = False, eager: bool = False
) -> int:
    """Bytes that the forward pass keeps for the backward pass.

    Per position and layer, with hidden size h, width of all query heads q, intermediate size i, rows of w columns:

    - float32: 4 (6 h + 5 q + 4 i + w): two norms keep input, normalised and output (6 h); attention keeps
      queries, keys and values repeated to all heads, and its output in two layouts (5 q); the gated MLP keeps
      gate, its activation, up and their product (4 i); the mask is added to scores in the weights' precision (w).
    - half precision under autocast: 26 h + 10 q + 8 i + 2 w: norms stay in float32 (16 h), and each of five linear
      layers keeps a half-precision copy of its input (10 h).
    - LoRA of rank r: the frozen norms keep 2 h values less, and each of seven adapters keeps r.
    - a few modules: 2 h + 4 q + 4 i + w values, since frozen linear layers keep no input; in the lowest trained layer
      the input of its last matrix only, i.
    - eager attention adds the score matrix before and after softmax: 2 x heads x w values.

    With gradient checkpointing each layer keeps its input only, and one layer at a time all of it.
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
    """Float32 logits at answer positions, set by set, with what is computed from them.

    Each logit takes 12 bytes while its set goes backward: log-softmax, its gradient and the logit's own. Until then a
    set keeps 4 (its log-softmax), or nothing where it is projected in chunks, which are computed again. A comparison
    with the start model's logits doubles all of this.
    """
    factor, kept, passing = 2 if compared else 1, 0, 0
    for count in answers:
        elements = count * shape.vocab
        chunked = elements > CHUNK_ELEMENTS
        kept += 0 if chunked else 4 * elements
        passing = max(passing, 12 * CHUNK_ELEMENTS if chunked else 8 * elements)
    return factor * (kept + passing)


def reference_bytes(
    shape: Shape, compared: bool | tuple[str, ...], num_gpus: int = 1, half: bool = False, elsewhere: bool = False
) -> int:
    """The start model, kept beside the one that is trained where a loss compares predictions at every step.

    A frozen copy of 4 P bytes, or 4 V h of the output layer where hidden states at answer tokens are enough, which
    are read from a file; nothing with LoRA, whose adapter can be switched off. In half precision the copy takes
    2 P + 2 V h, since its embeddings stay in float32. Several GPUs share a copy in float32, of which each has the
    embeddings and the output layer whole besides; the output layer alone each has for itself.

    Args:
        shape: Counts of the model.
        compared: `Needs.reference`.
        num_gpus: Devices that share the copy.
        half: Whether the copy is in half precision.
        elsewhere: Whether the copy is on a device of its own.
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
    """Bytes as a person reads them.

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
    """Copies of the weights that a forward pass makes: in half precision, or gathered from several devices."""
    cast = 0
    if half and shape.trained != "adapter":
        layers = 1 if num_gpus > 1 and checkpointing else shape.last + 1
        cast = 2 * (layers * shape.per_layer + (shape.head if shape.last == shape.layers - 1 else 0))
    return cast + (_gathered(shape, _weight_bytes(shape, half)) if num_gpus > 1 else 0)


def _gathered(shape: Shape, size: int) -> int:
    """With FSDP: the layer that is run and the next one, and what is outside of layers, at so many bytes a number."""
    return size * (min(2, shape.layers) * shape.per_layer + _ends(shape))


def _ends(shape: Shape) -> int:
    """Numbers of the embeddings and the output layer."""
    return (1 if shape.tied else 2) * shape.head


def _weight_bytes(shape: Shape, half: bool) -> int:
    return 2 if half and shape.trained == "adapter" else 4


def _state_bytes(optimizer: str) -> int:
    if "8bit" in optimizer or "4bit" in optimizer:
        return 2
    return next((size for name, size in _STATE_BYTES.items() if name in optimizer), 8)

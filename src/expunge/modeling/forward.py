"""Run a model's decoder and its output layer separately.

A loss needs the logits of a few positions only, so the decoder runs once, and only those hidden states are projected.
Whether this gives the model's own logits differs between architectures; `output_path` finds out by a trial.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.console import note
from expunge.data.templates import Encoded
from expunge.errors import IncompatibleError, one_line
from expunge.modeling.batch import TensorBatch, take
from expunge.modeling.packing import Packing, pack
from expunge.modeling.types import CausalLM

MODEL_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError)
"""Errors that models raise on inputs that they do not support."""
_LIMITS = re.compile("window|chunk|block|local|top_?k|budget|extent|distance|floor")
"""Names of settings that can change how a model treats tokens beyond some number of them."""
_TRIAL = (7, 4)
"""Lengths of the rows of a model's first trial."""
_NOISE_LENGTH = 16
"""Tokens of a row by which rounding is measured."""
_ATTRIBUTE = "_output_path"
_HALF = {torch.float16, torch.bfloat16}
_MAX_CAST = 2**30
"""Most weights that are cast to float32 for a trial."""
_MAX_NOISE = 0.15
"""Largest difference that counts as rounding; see `same_logp`."""


@dataclass(frozen=True)
class OutputPath:
    """How the logits of a model are computed."""

    head: Literal["layer", "model", "logits"]
    """Computation after the decoder.

    'layer': the output layer, with the scale and the cap of the config. 'model': the code after the decoder in the
    model's own forward pass. 'logits': the forward pass is not split; the logits of all positions take the place of
    hidden states.
    """
    positions: bool
    """Whether position ids are passed; without them, the model counts by itself."""


_PATHS = [OutputPath(head, positions) for head in ("layer", "model", "logits") for positions in (True, False)]
"""In the order in which they are tried: the fastest first."""


def decode(model: CausalLM, batch: TensorBatch, packed: bool = False) -> Tensor:
    """Return the hidden states of all positions after the last layer and norm, (B, L, D), for `head_of` to project.

    Args:
        model: The model.
        batch: B rows of L tokens.
        packed: Run the rows without padding, if the model supports it (`can_pack`); hidden states of padding are then
            undefined.
    """
    groups = _length_groups(model, batch)
    if groups:
        order = torch.tensor([row for rows in groups for row in rows], device=batch.input_ids.device)
        return torch.cat([_decode_group(model, take(batch, rows)) for rows in groups])[order.argsort()]
    packing = packing_of(model, batch, packed)
    hidden = run_inputs(model, _inputs(output_path(model), batch, packing))
    return hidden if packing is None else packing.unpack(hidden)


def packing_of(model: CausalLM, batch: TensorBatch, packed: bool) -> Packing | None:
    """Return the packing of a batch, or None if its rows are run with padding."""
    return pack(batch.spans, batch.input_ids.shape[1], model) if packed else None


def run_inputs(model: CausalLM, inputs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states, for `head_of` to project, of any inputs of the model's forward pass."""
    return _states(model, output_path(model), inputs)


def run_decoder(model: CausalLM, batch: TensorBatch, packing: Packing | None) -> Any:
    """Run the decoder for hooks on its layers, and return its output.

    Raises:
        IncompatibleError: The rows have to be run in groups.
    """
    if _length_groups(model, batch):
        raise IncompatibleError(
            f"a row has {batch.input_ids.shape[1]} tokens, and with so many this model's hidden states depend on the "
            "other rows of the batch, so losses and audits on hidden states are not defined.",
            fix="Shorten the rows.",
        )
    return decoder_of(model)(**_inputs(output_path(model), batch, packing), use_cache=False)


def head_of(model: CausalLM) -> Callable[[Tensor], Tensor]:
    """Return the function from hidden states, (N, D), to float32 logits."""
    return _head(model, output_path(model))


def output_head(layer: nn.Module, config: Any) -> Callable[[Tensor], Tensor]:
    """Return the function from hidden states to float32 logits through the output layer.

    Args:
        layer: The output layer.
        config: The model's config. Some architectures scale their logits (Cohere, Granite) or cap them (Gemma 2).
    """
    config = text_config(config)
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = layer(hidden).float() * scale if scale != 1.0 else layer(hidden).float()
        return torch.tanh(logits / cap) * float(cap) if cap else logits

    return head


def output_path(model: CausalLM) -> OutputPath:
    """Return how to compute the model's logits, from a trial that is made once per model.

    The trial compares short rows in a padded batch with the model's own logits of each row alone, in the precision of
    the weights. The first path that agrees is used. `load_model` makes it, so that it precedes sharding.

    Raises:
        IncompatibleError: The model does not run on text alone, is not causal, or no path gives its own logits.
    """
    path: OutputPath | None = vars(model).get(_ATTRIBUTE)
    if path is None:
        with hooks_disabled(model):
            path = _find_path(model)
        # A plain attribute of the module, which copies of the model and pickles contain.
        vars(model)[_ATTRIBUTE] = path
        if path.head != "layer":
            _note_own_path(type(model).__name__)
    return path


def decoder_of(model: CausalLM) -> nn.Module:
    """Return the model without its output layer."""
    # Some classes do not name their decoder (Llama 4), and `base_model` then is the model itself.
    whole: Any = model
    decoder: nn.Module = whole.base_model
    return getattr(whole, "model", decoder) if decoder is whole else decoder


@contextlib.contextmanager
def override_forward(module: nn.Module, forward: Any) -> Iterator[None]:
    """Replace a module's forward function."""
    # Wrappers such as accelerate's set `forward` on the instance; without one, the class's function is used again.
    previous = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if previous is not None:
            module.forward = previous


@contextlib.contextmanager
def hooks_disabled(model: CausalLM) -> Iterator[None]:
    """Disable forward hooks on the modules of a model, which could change a trial or count its passes."""
    # A sharded model is gathered by its hooks.
    modules = [] if "_root" in vars(model) else list(model.modules())
    hooks = [(module, module._forward_hooks, module._forward_pre_hooks) for module in modules]
    try:
        for module in modules:
            module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for module, after, before in hooks:
            module._forward_hooks, module._forward_pre_hooks = after, before


@contextlib.contextmanager
def in_float32(model: CausalLM) -> Iterator[None]:
    """Run a trial in float32: half precision would hide differences of a few percent.

    Autocast is disabled. Half-precision weights are cast, unless the model is large, sharded or quantised.
    """
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in _HALF]
    is_large = sum(tensor.numel() for tensor in tensors) > _MAX_CAST
    if is_large or "_root" in vars(model) or getattr(model, "hf_quantizer", None) is not None:
        tensors = []
    originals = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        for tensor, original in zip(tensors, originals, strict=True):
            # RWKV scales its weights in its first forward pass, so they are copied back; by powers of 2, so exactly.
            tensor.data = original.copy_(tensor.data)


def text_config(config: Any) -> Any:
    """Return the config of the language model, which is nested in that of a multimodal model."""
    return config.get_text_config(decoder=True)


def vocab_size(model: CausalLM) -> int:
    """Return the size of the vocabulary, V."""
    return int(text_config(model.config).vocab_size)


def length_limits(model: CausalLM, tested: int, longest: int) -> list[int]:
    """Return the lengths at which the model may treat tokens differently, such as that of a sliding window.

    A trial on `tested` tokens does not cover rows beyond such a length. Settings are found by name, generously: one
    too many costs a trial on longer rows.

    Args:
        model: The model.
        tested: Tokens of the trial.
        longest: Tokens of the longest row.
    """
    settings = vars(text_config(model.config)).items()
    named = {value for name, value in settings if _LIMITS.search(name) and "layer" not in name and type(value) is int}
    limits = {*named, (rope_limit(model.config) or 1) - 1}
    return sorted(limit for limit in limits if tested <= limit < longest)


def rope_limit(config: Any) -> int | None:
    """Return the number of tokens beyond which position frequencies depend on the longest row; None for no limit."""
    config = text_config(config)
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    limits = [
        value.get("original_max_position_embeddings") or config.max_position_embeddings
        for value in nested
        if value.get("rope_type") == "longrope" or "dynamic" in str(value.get("rope_type"))
    ]
    return min(map(int, limits), default=None)


def _length_groups(model: CausalLM, batch: TensorBatch) -> list[list[int]]:
    """Return row indices by group, if rows may not be run together: short rows, and one group per greater length.

    They are run together unless a row exceeds a limit of the model, and a trial at that length shows other predictions
    than for each row alone. Examples are position frequencies that depend on the longest row (dynamic RoPE, LongRoPE).
    """
    lengths = [stop - start for start, stop in batch.spans]
    limits = tuple(length_limits(model, _TRIAL[0], max(lengths)))
    # Processes that share a sharded model must run it equally often.
    if not limits or "_root" in vars(model) or _can_pad(model, limits, max(lengths)):
        return []
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(max(length, limits[0]), []).append(row)
    return list(groups.values())


def _decode_group(model: CausalLM, batch: TensorBatch) -> Tensor:
    """Return the (B, L, D) hidden states of rows that can be run together, without columns that are padding in all."""
    start, stop = min(start for start, _ in batch.spans), max(stop for _, stop in batch.spans)
    ids, mask = batch.input_ids, batch.attention_mask
    trimmed = replace(batch, input_ids=ids[:, start:stop], attention_mask=mask[:, start:stop])
    _reset_dynamic_rope(model)
    hidden = run_inputs(model, _inputs(output_path(model), trimmed, None))
    return F.pad(hidden, (0, 0, start, ids.shape[1] - stop))


def _reset_dynamic_rope(model: CausalLM) -> None:
    """Restore the original position frequencies; with dynamic RoPE, those of the longest row so far remain in use."""
    for module in model.modules():
        if "dynamic" not in str(getattr(module, "rope_type", "")):
            continue
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            prefix = name.removesuffix("max_seq_len_cached")
            setattr(module, name, module.original_max_seq_len)
            if f"{prefix}inv_freq" in module._buffers:
                original = getattr(module, f"{prefix}original_inv_freq")
                setattr(module, f"{prefix}inv_freq", original.to(next(module.buffers()).device, copy=True))


def _can_pad(model: CausalLM, limits: tuple[int, ...], longest: int) -> bool:
    """Return whether rows beyond limits of the model can be padded, from a trial of this length or a greater one.

    Args:
        model: The model.
        limits: Limits of the model that the longest row exceeds.
        longest: Tokens of the longest row.
    """
    results: dict[tuple[int, ...], tuple[bool, int]] = vars(model).setdefault("_can_pad", {})
    same, tested = results.get(limits, (True, 0))
    if same and longest > tested:
        rows = [trial_ids(model, length, start=length) for length in (longest, (longest + limits[0]) // 2, limits[0])]
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), hooks_disabled(model), in_float32(model):
                together = _last_logp(model, rows)
                alone = [_last_logp(model, [row])[0] for row in rows]
        finally:
            model.train(training)
        same = all(same_logp(model, *pair) for pair in zip(together, alone, strict=True))
        results[limits] = (same, longest)
    return same


def _last_logp(model: CausalLM, rows: list[Tensor]) -> list[Tensor]:
    """Return the log-probabilities at the last positions of rows in a padded batch."""
    path = output_path(model)
    _reset_dynamic_rope(model)
    states, head = _states(model, path, _padded_inputs(path, rows)), _head(model, path)
    return [head(row[: len(ids)][-_TRIAL[0] :]).log_softmax(-1) for row, ids in zip(states, rows, strict=True)]


def _inputs(path: OutputPath, batch: TensorBatch, packing: Packing | None) -> dict[str, Tensor]:
    """Return the inputs of the decoder for (B, L) padded rows, or for packed rows."""
    if packing is not None:
        return {"input_ids": packing.pack(batch.input_ids), "position_ids": packing.position_ids}
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if path.positions:
        # Positions count from the first token, so that padding on the left does not shift them.
        inputs["position_ids"] = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
    return inputs


def _states(model: CausalLM, path: OutputPath, inputs: Mapping[str, Any]) -> Tensor:
    if path.head == "logits":
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits
    hidden: Tensor = decoder_of(model)(**inputs, use_cache=False).last_hidden_state
    return hidden


def _head(model: CausalLM, path: OutputPath) -> Callable[[Tensor], Tensor]:
    if path.head == "logits":
        return Tensor.float
    return output_head(model.get_output_embeddings(), model.config) if path.head == "layer" else _own_head(model)


def _own_head(model: CausalLM) -> Callable[[Tensor], Tensor]:
    """Return the model's own forward pass after the decoder, whose output is replaced by given hidden states."""

    def head(hidden: Tensor) -> Tensor:
        ids = torch.zeros((1, hidden.shape[0]), dtype=torch.long, device=hidden.device)
        with override_forward(decoder_of(model), lambda *args, **kwargs: _DecoderOutput(hidden[None])):
            logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
        return logits.float()

    return head


class _DecoderOutput:
    """The output of a decoder with hidden states only; every other field is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


@functools.cache
def _note_own_path(name: str) -> None:
    note(f"{name}: log-probabilities go through the model's own output code, which is slower.")


@torch.no_grad()
def _find_path(model: CausalLM) -> OutputPath:
    """Return the first path that gives the model's own logits, by a trial on short rows."""
    first, second = (trial_ids(model, length) for length in _TRIAL)
    # Differs from the first row in the last token only, so all its other predictions must be equal.
    third = torch.cat([first[:-1], second[:1]])
    name = type(model).__name__
    training = model.training
    model.eval()
    try:
        try:
            expected = [model(input_ids=ids[None], use_cache=False).logits for ids in (first, second)]
            shapes = [tuple(logits.shape[:2]) for logits in expected]
        except MODEL_ERRORS as error:
            raise IncompatibleError(f"{name} does not run on text alone: {one_line(error)}") from error
        if shapes != [(1, length) for length in _TRIAL]:
            raise IncompatibleError(f"{name} does not give one prediction per token of a text.")
        if not all(logits.isfinite().all() for logits in expected):
            # There is nothing to compare; whoever uses the logits reports them.
            return OutputPath("layer", positions=True)
        own = [torch.log_softmax(logits[0].float(), -1) for logits in expected]
        for path in _PATHS:
            try:
                alone = _trial_logp(model, path, [first]) if is_half(model) else None
                rows = _trial_logp(model, path, [first, second, third])
            except MODEL_ERRORS:
                continue
            # The same computation, so that it shows a small scale or cap that rounding would hide.
            if alone is not None and not same_logp(model, alone[0], own[0], half_tolerance=1e-2):
                continue
            if not all(same_logp(model, row[: len(logp)], logp) for row, logp in zip(rows, own, strict=False)):
                continue
            if not same_logp(model, rows[2][:-1], own[0][:-1]):
                raise IncompatibleError(
                    f"{name}: predictions depend on later tokens, so it is not a causal language model.",
                    fix="If it was trained as one, set is_decoder to true in its config.json.",
                )
            return path
    finally:
        model.train(training)
    raise IncompatibleError(
        f"{name} gives other log-probabilities for rows of a padded batch than for each row alone, so it cannot be "
        "measured or trained in batches."
    )


def _trial_logp(model: CausalLM, path: OutputPath, rows: list[Tensor]) -> list[Tensor]:
    """Return the (L, V) log-probabilities of rows in a padded batch."""
    head, states = _head(model, path), _states(model, path, _padded_inputs(path, rows))
    return [head(row).log_softmax(-1) for row in states]


def _padded_inputs(path: OutputPath, rows: list[Tensor]) -> dict[str, Tensor]:
    width = max(map(len, rows))
    mask = torch.stack([torch.arange(width, device=row.device) < len(row) for row in rows]).long()
    inputs = {"input_ids": torch.stack([F.pad(row, (0, width - len(row))) for row in rows]), "attention_mask": mask}
    return inputs | ({"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if path.positions else {})


def same_logp(model: CausalLM, actual: Tensor, expected: Tensor, half_tolerance: float | None = None) -> bool:
    """Return whether two computations of (..., V) log-probabilities agree up to rounding.

    Args:
        model: The model, whose precision decides what is rounding.
        actual: Log-probabilities in float32.
        expected: The same, computed in another way.
        half_tolerance: In half precision, the allowed root mean square of the difference, relative to that of the
            expected values around their means; None for the model's own `rounding_noise`. Rounding can send a token to
            another expert, so no single value counts.
    """
    if actual.shape != expected.shape:
        return False
    spread = expected - expected.mean(-1, keepdim=True)
    if is_half(model):
        tolerance = rounding_noise(model) if half_tolerance is None else half_tolerance
        return bool((actual - expected).square().mean().sqrt() <= tolerance * spread.square().mean().sqrt())
    return bool((actual - expected).abs().max() <= 1e-3 * spread.abs().max())


@torch.no_grad()
def rounding_noise(model: CausalLM) -> float:
    """Return how far two computations in half precision may differ by rounding, as a share of the values' spread.

    Measured once per model: 1.25 times the difference when each value of the embedded tokens is rounded up or down by
    one unit in its last place. Between two right computations, 0.1 to 0.8 times this difference was seen.
    """
    noise: float | None = vars(model).get("_rounding_noise")
    if noise is None:
        unit = torch.finfo(next(model.parameters()).dtype).eps
        ids = trial_ids(model, 2 * _NOISE_LENGTH).view(2, _NOISE_LENGTH)
        generator = torch.Generator().manual_seed(0)

        def move(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
            signs = 2 * torch.randint(2, output.shape, generator=generator) - 1
            return (output.float() * (1 + unit * signs.to(output.device))).to(output.dtype)

        training = model.training
        model.eval()
        try:
            plain = _own_logp(model, ids)
            hook = model.get_input_embeddings().register_forward_hook(move)
            try:
                moved = _own_logp(model, ids)
            finally:
                hook.remove()
            spread = plain - plain.mean(-1, keepdim=True)
            share = float((moved - plain).square().mean().sqrt() / spread.square().mean().sqrt())
            noise = min(_MAX_NOISE, max(unit, 1.25 * share))
        except MODEL_ERRORS:
            noise = _MAX_NOISE
        finally:
            model.train(training)
        vars(model)["_rounding_noise"] = noise
    return noise


def _own_logp(model: CausalLM, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float().log_softmax(-1)


def is_half(model: CausalLM) -> bool:
    """Return whether the weights are in half precision."""
    return next(model.parameters()).dtype in _HALF


def trial_ids(model: CausalLM, length: int, start: int = 0) -> Tensor:
    """Return arbitrary token ids, none of which is a special token of the config.

    They are from the middle of the vocabulary, since special tokens are mostly at its ends.
    """
    config = text_config(model.config)
    special = {value for name, value in vars(config).items() if name.endswith(("token_id", "token_index"))}
    middle, quarter = config.vocab_size // 2, max(1, config.vocab_size // 4)
    ids = (middle + 7 * index % quarter for index in itertools.count(start))
    usable = itertools.islice((index for index in ids if index not in special), length)
    return torch.tensor(list(usable), device=next(model.parameters()).device)


def trial_rows(model: CausalLM, lengths: Sequence[int]) -> list[Encoded]:
    """Return rows of `trial_ids` with the given lengths."""
    return [Encoded(tuple(trial_ids(model, length, start=3 * length).tolist()), 1) for length in lengths]

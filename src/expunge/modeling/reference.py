"""The frozen reference policy of a loss, in the cheapest form that suffices.

In order of memory: one log-probability per row (`reference_logp`), the hidden states at answer positions on disk
(`StoredReference`), the model with its adapter disabled, or a frozen copy of the model (both `FrozenReference`).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.distributed import broadcast_from_main, world_size
from expunge.errors import IncompatibleError, UserError
from expunge.losses.likelihood import row_sums
from expunge.modeling.adapters import causal_lm, is_adapted, lora_layers
from expunge.modeling.batch import INFERENCE_TOKENS, TensorBatch, length_batches
from expunge.modeling.forward import (
    decode,
    decoder_of,
    head_of,
    output_head,
    output_path,
    text_config,
    vocab_size,
)
from expunge.modeling.fsdp import frozen_copy, frozen_layer_copy
from expunge.modeling.logprobs import token_logp
from expunge.modeling.peak_memory import release_freed_memory
from expunge.modeling.types import Adapted, CausalLM, ModuleLike, TrainedModel

RowIndices = Mapping[str, Collection[int]]
"""Row indices by set."""


@torch.no_grad()
def batch_token_logp(model: CausalLM, batch: TensorBatch) -> Tensor:
    """Return the log-probability of each answer token of a batch, (N,), without gradient."""
    hidden = decode(model, batch)[batch.rows, batch.positions]
    return token_logp(head_of(model), hidden, batch.labels, vocab_size(model))


def reference_logp(
    model: TrainedModel, rows: Sequence[Encoded], pad_id: int, max_tokens: int = INFERENCE_TOKENS
) -> np.ndarray[Any, Any]:
    """Compute the summed log-probability of every row's answer under the reference.

    Args:
        model: The model before training; an adapter is disabled.
        rows: Encoded rows.
        pad_id: Id written into padding.
        max_tokens: Padded tokens per forward pass.

    Returns:
        (number of rows,) float64, in the order of `rows`.
    """
    was_training = model.training
    model.eval()
    result = np.zeros(len(rows))
    device = next(model.parameters()).device
    with model.disable_adapter() if is_adapted(model) else contextlib.nullcontext():
        for indices in length_batches(rows, max_tokens):
            batch = TensorBatch.of(collate([rows[i] for i in indices], pad_id), device)
            sums = row_sums(batch_token_logp(causal_lm(model), batch), batch.rows, batch.num_rows)
            result[indices] = sums.double().cpu().numpy()
    model.train(was_training)
    release_freed_memory()
    return result


class FrozenReference:
    """The reference as a model: a frozen copy, or the trained model itself with its adapter disabled.

    Args:
        model: The model before its first training step.
        dtype: Precision in which a copy is stored and run; None: float32, run in the precision of training.
        device: Device of a copy; None: that of the model.
    """

    def __init__(
        self, model: TrainedModel, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        self._adapted: Adapted | None = None
        self._dtype: torch.dtype | None = None
        if is_adapted(model):
            self._adapted = model
            decoder = set(decoder_of(causal_lm(model)).modules())
            self._head_is_adapted = any(layer not in decoder for layer in lora_layers(model).values())
            return
        self._dtype = dtype
        self._copy: CausalLM = frozen_copy(model)
        if device is not None:
            self._copy.to(device)
        if dtype in {torch.bfloat16, torch.float16}:
            _cast_matrices(self._copy, dtype)

    @torch.no_grad()
    def hidden(self, batch: TensorBatch, packed: bool = False) -> Tensor:
        """Return the reference's last hidden states, (B, L, D); with `packed`, those of padding are undefined."""
        if self._adapted is None:
            with self._precision():
                hidden = decode(self._copy, batch.to(self._device), packed)
            return hidden.to(batch.input_ids.device)
        training = self._adapted.training
        self._adapted.eval()
        with self._adapted.disable_adapter():
            hidden = decode(causal_lm(self._adapted), batch, packed)
        self._adapted.train(training)
        return hidden

    def answers(self, name: str, rows: np.ndarray[Any, Any] | None, batch: TensorBatch, packed: bool) -> Tensor:
        """Return the last hidden states that predict the answer tokens of a batch, (N, D)."""
        return self.hidden(batch, packed)[batch.rows, batch.positions]

    def head(self, hidden: Tensor) -> Tensor:
        """Return the reference's logits of hidden states."""
        if self._adapted is not None:
            with self._adapted.disable_adapter() if self._head_is_adapted else contextlib.nullcontext():
                return head_of(causal_lm(self._adapted))(hidden)
        with self._precision():
            return head_of(self._copy)(hidden.to(self._device)).to(hidden.device)

    @property
    def _device(self) -> torch.device:
        return next(self._copy.parameters()).device

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """Replace the autocast settings of training by those of the copy, if it has a precision of its own."""
        if self._dtype is None:
            yield
            return
        half = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype if half else None, enabled=half):
            yield


def _cast_matrices(model: ModuleLike, dtype: torch.dtype) -> None:
    """Store matrices in half precision: half the memory and the same results, since autocast would cast them anyway.

    Norms and embeddings, including a matrix tied to an embedding, are not changed.
    """
    embeddings = {
        id(weight) for module in model.modules() if isinstance(module, nn.Embedding) for weight in module.parameters()
    }
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in embeddings:
            module.to(dtype)


class StoredReference:
    """The reference's last hidden states at answer positions, computed once, and a copy of its output layer.

    Sufficient for losses that compare predictions at answer positions only; no second model is stored or run. The
    states, 4 bytes x answer tokens x width, are in an anonymous temporary file, deleted when the process exits.

    Args:
        model: The model before its first training step.
        sets: Encoded rows by set.
        pad_id: Id written into padding.
        folder: Folder of the temporary file.
        selected_rows: Rows of each set to store; None for all.
        max_tokens: Padded tokens per forward pass.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: CausalLM,
        sets: Mapping[str, Sequence[Encoded]],
        pad_id: int,
        folder: Path,
        selected_rows: RowIndices | None = None,
        max_tokens: int = INFERENCE_TOKENS,
    ) -> None:
        self.head = output_head(frozen_layer_copy(model.get_output_embeddings()), model.config)
        self._width = 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this object exists
        weakref.finalize(self, self._file.close)
        self._offsets: dict[tuple[str, int], tuple[int, int]] = {}
        training = model.training
        model.eval()
        for name, rows in sets.items():
            members = sorted(selected_rows[name]) if selected_rows is not None else range(len(rows))
            with progress(f"Running the reference on {name} rows", len(members), "rows") as advance:
                for batch_members in length_batches([rows[index] for index in members], max_tokens):
                    self._store(model, name, {members[i]: rows[members[i]] for i in batch_members}, pad_id)
                    advance(len(batch_members))
        model.train(training)
        release_freed_memory()

    def _store(self, model: CausalLM, name: str, rows: Mapping[int, Encoded], pad_id: int) -> None:
        batch = TensorBatch.of(collate(list(rows.values()), pad_id), next(model.parameters()).device)
        hidden = decode(model, batch)[batch.rows, batch.positions].float().cpu()
        self._width = hidden.shape[1]
        states_by_row = torch.split(hidden, [row.num_answer for row in rows.values()])  # type: ignore[no-untyped-call]
        for index, states in zip(rows, states_by_row, strict=True):
            self._offsets[name, index] = (self._file.tell(), len(states))
            self._file.write(states.numpy().tobytes())

    def hidden(self, batch: TensorBatch, packed: bool = False) -> Tensor:
        """Raise, since only the states at answer positions are stored.

        Raises:
            IncompatibleError: Always.
        """
        raise IncompatibleError(
            "the method uses the reference beyond answer tokens, but its `needs` declares answer tokens only.",
            fix="Declare reference=True in `needs`.",
        )

    def answers(self, name: str, rows: np.ndarray[Any, Any] | None, batch: TensorBatch, packed: bool) -> Tensor:
        """Return the last hidden states that predict the answer tokens of a batch, (N, D), by its row indices."""
        assert rows is not None, "a step with a stored reference has row indices"
        stored_bytes = bytearray()
        for row in rows.tolist():
            offset, count = self._offsets[name, row]
            self._file.seek(offset)
            stored_bytes += self._file.read(4 * count * self._width)
        return torch.frombuffer(stored_bytes, dtype=torch.float32).view(-1, self._width).to(batch.labels.device)


def make_reference(
    model: TrainedModel,
    needed: bool | tuple[str, ...],
    sets: Mapping[str, Sequence[Encoded]],
    pad_id: int,
    *,
    folder: Path,
    visited_rows: Callable[[], RowIndices],
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> FrozenReference | StoredReference | None:
    """Return the reference that a method's loss needs, in the form that takes the least memory.

    A model with an adapter is its own reference, with the adapter disabled. Otherwise hidden states are stored if the
    loss needs them at answer positions only and the output layer suffices to project them; if not, the model is copied.

    Args:
        model: The model before its first training step.
        needed: `Needs.reference`: the sets at whose answer positions it is needed, True for all positions, or nothing.
        sets: Encoded rows by set.
        pad_id: Id written into padding.
        folder: Folder of stored states.
        visited_rows: Returns the rows of each set that training visits.
        dtype: Precision of a copy.
        device: Device of a copy.

    Raises:
        UserError: The states do not fit on the disk.
    """
    if not needed:
        return None
    if isinstance(needed, bool) or is_adapted(model) or output_path(model).head != "layer":
        return FrozenReference(model, dtype, device)
    rows = {name: visited_rows()[name] for name in needed}
    num_answer = sum(sets[name][row].num_answer for name, members in rows.items() for row in members)
    folder.mkdir(parents=True, exist_ok=True)
    # Each process stores its own file, possibly on a shared disk, and all of them have to take the same branch.
    free_bytes = broadcast_from_main(shutil.disk_usage(folder).free) / world_size()
    size_bytes = 4 * num_answer * text_config(model.config).hidden_size
    if size_bytes > free_bytes:
        raise UserError(
            f"the reference's hidden states take {size_bytes / 2**30:.3g} GiB per process in {folder}, but only "
            f"{free_bytes / 2**30:.3g} GiB per process are free.",
            fix="Free some space, or choose a folder on a larger disk with --runs.",
        )
    return StoredReference(model, {name: sets[name] for name in needed}, pad_id, folder, rows)

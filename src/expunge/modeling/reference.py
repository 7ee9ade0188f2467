"""The frozen reference: scalars computed once where they suffice, a frozen copy only where logits are needed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import types
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
from expunge.modeling.adapters import adapter_off, causal_lm
from expunge.modeling.batch import ONCE_TOKENS, TensorBatch, length_batches
from expunge.modeling.forward import decode, head_of
from expunge.modeling.logprobs import token_logp
from expunge.modeling.peak_memory import return_freed


@torch.no_grad()
def batch_token_logp(model: Any, batch: TensorBatch) -> Tensor:
    """(N,) log-probability of each answer token of a batch, in evaluation mode and without gradient."""
    inner = causal_lm(model)
    hidden = decode(inner, batch)[batch.rows, batch.positions]
    return token_logp(head_of(inner), hidden, batch.labels, inner.config.vocab_size)


Chosen = Mapping[str, Collection[int]]
"""Rows by set."""


def reference_logp(
    model: Any, rows: Sequence[Encoded], pad_id: int, max_tokens: int = ONCE_TOKENS
) -> np.ndarray[Any, Any]:
    """Summed log-probability of every row's answer under the start model: all that NPO needs of its reference.

    Returns:
        (number of rows,) float64, in the order of `rows`.
    """
    was_training = model.training
    model.eval()
    result = np.zeros(len(rows))
    device = next(model.parameters()).device
    with adapter_off(model):
        for indices in length_batches(rows, max_tokens):
            batch = TensorBatch.of(collate([rows[i] for i in indices], pad_id), device)
            sums = row_sums(batch_token_logp(model, batch), batch.rows, batch.num_rows)
            result[indices] = sums.double().cpu().numpy()
    model.train(was_training)
    return_freed()
    return result


class FrozenReference:
    """The start model, kept for its logits: a frozen copy, or the model itself with its adapter off.

    Args:
        model: The model about to be trained, at its start.
        dtype: Precision in which a copy is kept and run; None for float32, run as the model that is trained is.
        device: Where a copy is kept and run; None for where the model is.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        from expunge.modeling.fsdp import frozen_copy

        self._adapted = model if hasattr(model, "disable_adapter") else None
        self._dtype = None if self._adapted is not None else dtype
        if self._adapted is None:
            self._copy = frozen_copy(model)
            if device is not None:
                self._copy.to(device)
            if dtype in {torch.bfloat16, torch.float16}:
                _halve(self._copy, dtype)

    @torch.no_grad()
    def hidden(self, batch: TensorBatch, packed: bool = False) -> Tensor:
        """(B, L, D) last hidden states of the reference; with `packed`, those of padding mean nothing."""
        if self._adapted is None:
            with self._precision():
                hidden = decode(causal_lm(self._copy), batch.to(self._device), packed)
            return hidden.to(batch.input_ids.device)
        training = self._adapted.training
        self._adapted.eval()
        with self._adapted.disable_adapter():
            hidden = decode(causal_lm(self._adapted), batch, packed)
        self._adapted.train(training)
        return hidden

    def answers(self, name: str, rows: np.ndarray[Any, Any] | None, batch: TensorBatch, packed: bool) -> Tensor:
        """(N, D) last hidden states that predict the answer tokens of a batch."""
        return self.hidden(batch, packed)[batch.rows, batch.positions]

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states -> logits of the reference."""
        if self._adapted is not None:
            return head_of(causal_lm(self._adapted))(hidden)
        with self._precision():
            return head_of(causal_lm(self._copy))(hidden.to(self._device)).to(hidden.device)

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self._copy.parameters()).device
        return device

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        if self._dtype is None:
            yield
            return
        half = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype if half else None, enabled=half):
            yield


def _halve(model: Any, dtype: torch.dtype) -> None:
    """Keep matrices in half precision, which autocast would give them anyway: half the memory, the same numbers.

    Norms and embeddings, and a matrix that is an embedding too, stay as they are.
    """
    embeddings = {
        id(weight) for each in model.modules() if isinstance(each, nn.Embedding) for weight in each.parameters()
    }
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in embeddings:
            module.to(dtype)


class StoredReference:
    """The start model's last hidden states at answer positions, computed once, and a copy of its output layer.

    All that a loss needs which compares predictions at answer positions: no second model is kept, and none is run.
    The states, 4 bytes x answer tokens x width, lie in a file without a name, which is gone when the process is.

    Args:
        model: The model about to be trained, at its start.
        sets: Encoded rows by set.
        pad_id: Id written into padding.
        folder: Where the file is made.
        chosen: Rows of each set that are asked for; None for all.
        max_tokens: Padded tokens per forward pass.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Any,
        sets: Mapping[str, Sequence[Encoded]],
        pad_id: int,
        folder: Path,
        chosen: Chosen | None = None,
        max_tokens: int = ONCE_TOKENS,
    ) -> None:
        from expunge.modeling.fsdp import copied_layer

        inner = causal_lm(model)
        layer = copied_layer(inner.get_output_embeddings())
        self.head = head_of(types.SimpleNamespace(get_output_embeddings=lambda: layer, config=inner.config))
        self._width = inner.config.get_text_config().hidden_size
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this lives
        weakref.finalize(self, self._file.close)
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        training = model.training
        model.eval()
        for name, rows in sets.items():
            members = sorted(chosen[name]) if chosen is not None else range(len(rows))
            with progress(f"Running the start model on {name} rows, once", len(members), "rows") as advance:
                for batch_members in length_batches([rows[index] for index in members], max_tokens):
                    self._compute(inner, name, {members[i]: rows[members[i]] for i in batch_members}, pad_id)
                    advance(len(batch_members))
        model.train(training)
        return_freed()

    def _compute(self, model: Any, name: str, rows: Mapping[int, Encoded], pad_id: int) -> None:
        batch = TensorBatch.of(collate(list(rows.values()), pad_id), next(model.parameters()).device)
        hidden = decode(model, batch)[batch.rows, batch.positions].float().cpu()
        parts = torch.split(hidden, [row.num_answer for row in rows.values()])  # type: ignore[no-untyped-call]
        for index, states in zip(rows, parts, strict=True):
            self._places[name, index] = (self._file.tell(), len(states))
            self._file.write(states.numpy().tobytes())

    def hidden(self, batch: TensorBatch, packed: bool = False) -> Tensor:
        """Not kept.

        Raises:
            IncompatibleError: Always: a method that looks beyond answer positions has to ask for the whole reference.
        """
        raise IncompatibleError(
            "the method looks at the start model's states beyond answer tokens, but asked for those of answer tokens.",
            fix="Let its `needs` say reference=True.",
        )

    def answers(self, name: str, rows: np.ndarray[Any, Any] | None, batch: TensorBatch, packed: bool) -> Tensor:
        """(N, D) last hidden states that predict the answer tokens of a batch, found by its rows' indices."""
        assert rows is not None, "a step with a stored reference knows which rows it holds"
        found = bytearray()
        for row in rows.tolist():
            place, count = self._places[name, row]
            self._file.seek(place)
            found += self._file.read(4 * count * self._width)
        return torch.frombuffer(found, dtype=torch.float32).view(-1, self._width).to(batch.labels.device)


def make_reference(
    model: Any,
    needed: bool | tuple[str, ...],
    sets: Mapping[str, Sequence[Encoded]],
    pad_id: int,
    *,
    folder: Path,
    chosen: Callable[[], Chosen],
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> FrozenReference | StoredReference | None:
    """The reference that a method's loss needs, in the form that takes less memory.

    With an adapter the model itself serves, with the adapter off; otherwise stored hidden states where these are
    enough, and a frozen copy where they are not.

    Args:
        model: The model about to be trained, at its start.
        needed: `Needs.reference`: sets at whose answer positions it is needed, True for anywhere, or nothing.
        sets: Encoded rows by set.
        pad_id: Id written into padding.
        folder: Where states are stored.
        chosen: Gives the rows of each set that the training comes to.
        dtype: Precision of a frozen copy.
        device: Device of a frozen copy.

    Raises:
        UserError: The states do not fit on the disk.
    """
    if not needed:
        return None
    if isinstance(needed, bool) or hasattr(model, "disable_adapter"):
        return FrozenReference(model, dtype, device)
    rows = {name: chosen()[name] for name in needed}
    num_answer = sum(sets[name][row].num_answer for name, members in rows.items() for row in members)
    folder.mkdir(parents=True, exist_ok=True)
    # Every process keeps its own, perhaps on one disk, and none may go on where another cannot.
    room = broadcast_from_main(shutil.disk_usage(folder).free) / world_size()
    size = 4 * num_answer * causal_lm(model).config.get_text_config().hidden_size
    if size > room:
        raise UserError(
            f"the start model's hidden states take {size / 2**30:.3g} GiB per process in {folder}, where "
            f"{room / 2**30:.3g} GiB are free for each.",
            fix="Make room, or keep the runs on a larger disk.",
        )
    return StoredReference(model, {name: sets[name] for name in needed}, pad_id, folder, rows)

"""Anchors and generic labels of Who's Harry Potter, created before training and cached in files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.console import is_main_process, note, progress
from expunge.data.anchors.dictionary import Anchors, read_anchors
from expunge.data.anchors.llm import collect_anchors
from expunge.data.anchors.mining import mine_anchors
from expunge.data.blocks import Block
from expunge.data.templates import NO_LABEL, Encoded
from expunge.distributed import map_over_ranks, wait
from expunge.errors import DataError
from expunge.methods.base import Preparation
from expunge.methods.whp.labels import Labelled, TokenSpans, label_blocks, translate
from expunge.rundir import write_atomic
from expunge.services.chat import chat_service


def exists(path: Path) -> bool:
    """Return whether a file exists; all processes get the same answer, before any of them can create it."""
    is_file = path.is_file()
    wait()
    return is_file


def anchor_dictionary(settings: Any, preparation: Preparation) -> Anchors:
    """Return the anchors of a source, cached in `anchors.json`, where users can read them.

    Args:
        settings: One of the classes in `AnchorSource`.
        preparation: Sets, target and folder of the run.

    Raises:
        DataError: The anchors cannot be read or collected; replies of a service so far are cached.
    """
    path = preparation.folder / "anchors.json"
    if not exists(path):
        if is_main_process():
            anchors = _collect(settings, preparation)
            write_atomic(path, json.dumps(anchors, indent=1, ensure_ascii=False) + "\n")
            note(f"{len(anchors)} anchors in {path}.")
        wait()
    return read_anchors(path)


def _collect(settings: Any, preparation: Preparation) -> Anchors:
    if settings.source == "file":
        return read_anchors(Path(settings.path).expanduser())
    forget, retain = (
        [f"{row.question}\n{row.answer}" if row.question else str(row.answer) for row in rows or ()]
        for rows in (preparation.sets.forget, preparation.sets.retain)
    )
    if settings.source == "corpus":
        return mine_anchors(forget, retain, **settings.model_dump(exclude={"source"}))
    if settings.source == "service":
        ask = chat_service(
            settings.base_url,
            settings.model,
            api_key_env=settings.api_key_env,
            timeout_seconds=settings.timeout_seconds,
        )
        retry = {"attempts": settings.attempts, "backoff_seconds": settings.backoff_seconds}
    else:
        # Greedy decoding returns the same reply to the same prompt, so a second attempt is useless.
        ask, retry = _prompt_target(preparation, settings.max_new_tokens), {"attempts": 1}
    return collect_anchors(
        forget,
        ask,
        preparation.folder / "anchor-replies.jsonl",
        chunk_characters=settings.chunk_characters,
        **retry,
    )


def _prompt_target(preparation: Preparation, max_new_tokens: int) -> Callable[[str], str]:
    """Return a function that sends a prompt to the target and returns its greedy reply."""
    template = preparation.template
    model = preparation.open_target()

    def reply(prompt: str) -> str:
        import torch

        ids = torch.tensor([template.prompt_ids(prompt)], device=model.device)
        with torch.no_grad():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=template.tokenizer.eos_token_id,
            )
        return template.decode(output[0, ids.shape[1] :].tolist())

    return reply


def make_labels(
    preparation: Preparation, blocks: Sequence[Block], anchors: Anchors, reinforced: Any, alpha: float
) -> list[Labelled]:
    """Return the generic labels of all blocks; stand-ins are chosen by a seed per block."""
    spans = TokenSpans(preparation.template.tokenizer)
    target, reinforced = preparation.open_target().eval(), reinforced.eval()
    batch_size = max(1, preparation.batch_tokens // len(blocks[0].ids))

    def label(indices: Sequence[int]) -> list[Labelled]:
        labelled: list[Labelled] = []
        with progress("Writing generic labels", len(indices), "blocks") as advance:
            for start in range(0, len(indices), batch_size):
                batch = indices[start : start + batch_size]
                translations = [
                    translate(blocks[i], anchors, spans, np.random.default_rng([preparation.seed, i])) for i in batch
                ]
                labelled += label_blocks(target, reinforced, [blocks[i] for i in batch], translations, alpha)
                advance(len(batch))
        return labelled

    return map_over_ranks(label, list(range(len(blocks))))


def write_labels(path: Path, blocks: Sequence[Block], labels: Sequence[Labelled], tokenizer: Any) -> None:
    """Write every token with the target's prediction and the generic label of the next one, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if is_main_process():
        columns = {
            "block": np.repeat(np.arange(len(blocks)), [len(block.ids) for block in blocks]),
            "position": np.concatenate([np.arange(len(block.ids)) for block in blocks]),
            "token_id": np.concatenate([block.ids for block in blocks]),
            "target_prediction_id": np.concatenate([block.target_prediction for block in labels]),
            "generic_label_id": np.concatenate([block.labels for block in labels]),
        }
        id_columns = [name for name in columns if name.endswith("_id")]
        unique_ids = np.unique(np.concatenate([columns[name] for name in id_columns]))
        text_of = {int(i): "" if i == NO_LABEL else tokenizer.decode([int(i)]) for i in unique_ids}
        table = pa.table(
            {name.removesuffix("_id"): [text_of[int(i)] for i in columns[name]] for name in id_columns}
            | {name: pa.array(values, pa.int32()) for name, values in columns.items()}
        )
        text_columns = [name.removesuffix("_id") for name in id_columns]
        buffer = io.BytesIO()
        pq.write_table(table.select(["block", "position", *text_columns, *id_columns]), buffer)
        write_atomic(path, buffer.getvalue())
    wait()


def read_labels(path: Path, only_changed: bool = False) -> list[NDArray[np.int64]]:
    """Return the generic labels per block.

    Args:
        path: File of `write_labels`.
        only_changed: Replace labels that equal the target's prediction by NO_LABEL.

    Raises:
        DataError: The file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["block", "generic_label_id", "target_prediction_id"])
        blocks, labels, predictions = (
            table[name].to_numpy().astype(np.int64) for name in ("block", "generic_label_id", "target_prediction_id")
        )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read.", fix="Delete it to write the labels again.") from error
    if only_changed:
        labels = np.where(labels == predictions, NO_LABEL, labels)
    return np.split(labels, np.flatnonzero(np.diff(blocks)) + 1)


def labelled_rows(blocks: Sequence[Block], labels: Sequence[NDArray[np.int64]]) -> list[Encoded]:
    """Return the blocks as rows with generic labels, without blocks that have no label.

    The last label of a block is dropped, because its token is outside the block.

    Raises:
        DataError: The labels belong to other blocks, or no token has a label.
    """
    if [len(block.ids) for block in blocks] != [len(block_labels) for block_labels in labels]:
        raise DataError("the stored labels belong to other blocks.", fix="Delete the folder prepared/ of the run.")
    rows = [
        Encoded(ids=block.ids, answer_start=1, row=f"block {index}", labels=tuple(block_labels[:-1].tolist()))
        for index, (block, block_labels) in enumerate(zip(blocks, labels, strict=True))
    ]
    rows = [row for row in rows if row.num_answer]
    if not rows:
        raise DataError(
            "no token of the forget text has a generic label.", fix="Check the anchors: they cover the whole text."
        )
    return rows

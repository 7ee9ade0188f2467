"""What Who's Harry Potter prepares before it trains: anchors, labels, and their files."""

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


def is_there(path: Path) -> bool:
    """Whether a file is there, asked by all processes before any of them can make it."""
    found = path.is_file()
    wait()
    return found


def anchor_dictionary(settings: Any, preparation: Preparation) -> Anchors:
    """The anchors that the settings ask for, also written to `anchors.json` for people to read.

    Raises:
        DataError: They cannot be read or made; what a service has answered so far is kept.
    """
    place = preparation.folder / "anchors.json"
    if not is_there(place):
        if is_main_process():
            anchors = _make_anchors(settings, preparation)
            write_atomic(place, json.dumps(anchors, indent=1, ensure_ascii=False) + "\n")
            note(f"{len(anchors)} anchors in {place}.")
        wait()
    return read_anchors(place)


def _make_anchors(settings: Any, preparation: Preparation) -> Anchors:
    forget = [_text(row) for row in preparation.sets.forget]
    options = settings.model_dump(exclude={"source"})
    if settings.source == "file":
        return read_anchors(Path(settings.path).expanduser())
    if settings.source == "corpus":
        return mine_anchors(forget, [_text(row) for row in preparation.sets.retain or ()], **options)
    if settings.source == "service":
        ask = chat_service(
            settings.base_url,
            settings.model,
            api_key_env=settings.api_key_env,
            timeout_seconds=settings.timeout_seconds,
        )
        retry = {"attempts": settings.attempts, "backoff_seconds": settings.backoff_seconds}
    else:
        # The same prompt gives the same reply, so asking again is of no use.
        ask, retry = _ask_target(preparation, settings.max_new_tokens), {"attempts": 1}
    return collect_anchors(
        forget,
        ask,
        preparation.folder / "anchor-replies.jsonl",
        chunk_characters=settings.chunk_characters,
        **retry,
    )


def _text(row: Any) -> str:
    return f"{row.question}\n{row.answer}" if row.question else str(row.answer)


def _ask_target(preparation: Preparation, max_new_tokens: int) -> Callable[[str], str]:
    template = preparation.template
    model = preparation.open_target()

    def ask(prompt: str) -> str:
        import torch

        ids = torch.tensor([template.prompt_ids(prompt)], device=model.device)
        with torch.no_grad():
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=template.tokenizer.eos_token_id,
            )
        return template.decode(written[0, ids.shape[1] :].tolist())

    return ask


def make_labels(
    preparation: Preparation, blocks: Sequence[Block], anchors: Anchors, reinforced: Any, alpha: float
) -> list[Labelled]:
    """Generic labels of all blocks; every block has its own seeded choice of stand-ins."""
    speller = TokenSpans(preparation.template.tokenizer)
    base, reinforced = preparation.open_target().eval(), reinforced.eval()
    size = max(1, preparation.batch_tokens // len(blocks[0].ids))

    def run(numbers: Sequence[int]) -> list[Labelled]:
        found: list[Labelled] = []
        with progress("Writing generic labels", len(numbers), "blocks") as advance:
            for start in range(0, len(numbers), size):
                chosen = numbers[start : start + size]
                translations = [
                    translate(blocks[i], anchors, speller, np.random.default_rng([preparation.seed, i])) for i in chosen
                ]
                found += label_blocks(base, reinforced, [blocks[i] for i in chosen], translations, alpha)
                advance(len(chosen))
        return found

    return map_over_ranks(run, list(range(len(blocks))))


def write_labels(place: Path, blocks: Sequence[Block], labels: Sequence[Labelled], tokenizer: Any) -> None:
    """Write every token with what the base model says after it and with its generic label, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if is_main_process():
        columns = {
            "block": np.repeat(np.arange(len(blocks)), [len(block.ids) for block in blocks]),
            "position": np.concatenate([np.arange(len(block.ids)) for block in blocks]),
            "token_id": np.concatenate([block.ids for block in blocks]),
            "base_says_id": np.concatenate([each.base_says for each in labels]),
            "generic_label_id": np.concatenate([each.labels for each in labels]),
        }
        ids = np.unique(np.concatenate([columns[name] for name in columns if name.endswith("_id")]))
        spelled = {int(i): "" if i == NO_LABEL else tokenizer.decode([int(i)]) for i in ids}
        table = pa.table(
            {name.removesuffix("_id"): [spelled[int(i)] for i in columns[name]] for name in columns if "_id" in name}
            | {name: pa.array(values, pa.int32()) for name, values in columns.items()}
        )
        order = ["block", "position", "token", "base_says", "generic_label"]
        buffer = io.BytesIO()
        pq.write_table(table.select([*order, *(name for name in columns if "_id" in name)]), buffer)
        write_atomic(place, buffer.getvalue())
    wait()


def read_labels(place: Path, only_changed: bool = False) -> list[NDArray[np.int64]]:
    """Generic labels per block.

    Args:
        place: File of the labels.
        only_changed: Leave out the labels that are what the base model says anyway.

    Raises:
        DataError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(place, columns=["block", "generic_label_id", "base_says_id"])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{place} cannot be read.", fix="Delete it to have the labels made again.") from error
    numbers, labels, says = (table[name].to_numpy().astype(np.int64) for name in table.column_names)
    if only_changed:
        labels = np.where(labels == says, NO_LABEL, labels)
    return np.split(labels, np.flatnonzero(np.diff(numbers)) + 1)


def labelled_rows(blocks: Sequence[Block], labels: Sequence[NDArray[np.int64]]) -> list[Encoded]:
    """Blocks as rows whose labels are the generic ones.

    The last position of a block predicts a token that is not in it, so its label is left out; so are blocks without
    any label.

    Raises:
        DataError: The labels belong to other blocks, or nothing has a label.
    """
    if [len(block.ids) for block in blocks] != [len(each) for each in labels]:
        raise DataError("the stored labels belong to other blocks.", fix="Delete the folder prepared/ of the run.")
    rows = [
        Encoded(ids=block.ids, answer_start=1, row=f"block {number}", labels=tuple(each[:-1].tolist()))
        for number, (block, each) in enumerate(zip(blocks, labels, strict=True))
    ]
    rows = [row for row in rows if row.num_answer]
    if not rows:
        raise DataError("no token of the forget text has a generic label.", fix="Check the anchors: they cover it all.")
    return rows

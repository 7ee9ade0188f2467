"""Text as blocks of equally many tokens, with the place of every token in the block's text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from expunge.data.sets import Row
from expunge.data.templates import Encoded, Template
from expunge.errors import DataError


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of text and its tokens."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """First character of each token in `text`, and the one after its last."""

    @property
    def encoded(self) -> Encoded:
        """All tokens but the first as something to learn: nothing stands before that one."""
        return Encoded(ids=self.ids, answer_start=1)


def cut_blocks(rows: Iterable[Row], template: Template, context: int) -> list[Block]:
    """Join the texts of rows and cut them into blocks of `context` tokens, each of which begins with a start token.

    The start token (where the tokenizer has one of its own) also stands between texts; models that were trained with
    it answer oddly without. What is left over at the end is dropped, unless it is everything that there is.

    Raises:
        DataError: Not even two tokens.
    """
    tokenizer = template.tokenizer
    between = tokenizer.bos_token or tokenizer.eos_token
    opening = tokenizer.bos_token_id if tokenizer.bos_token != tokenizer.eos_token else None
    parts, length = list[str](), 0
    ids, offsets = list[int](), list[tuple[int, int]]()
    for row in rows:
        piece = template.full_text(row.question, row.answer) if row.question else f"{between}{row.answer}"
        encoding = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        ids.extend(encoding["input_ids"])
        offsets.extend((length + first, length + last) for first, last in encoding["offset_mapping"])
        parts.append(piece)
        length += len(piece)
    if len(ids) < 2:
        raise DataError("the forget text has fewer than two tokens.", fix="Give a text that can be learnt from.")
    text, blocks, place = "".join(parts), list[Block](), 0
    while place < len(ids):
        start = [] if opening is None or ids[place] == opening else [opening]
        end = place + context - len(start)
        if end <= len(ids) or not blocks:
            blocks.append(_block(text, start, ids[place:end], offsets[place:end]))
        place = end
    return blocks


def _block(text: str, start: list[int], ids: list[int], offsets: list[tuple[int, int]]) -> Block:
    first, last = offsets[0][0], max(end for _, end in offsets)
    inside = ((begin - first, end - first) for begin, end in offsets)
    return Block(text[first:last], (*start, *ids), ((0, 0),) * len(start) + tuple(inside))

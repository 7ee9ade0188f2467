"""Cut text into blocks of equally many tokens, with the character offsets of every token."""

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
    """Start and end (exclusive) of each token in `text`, in characters."""

    @property
    def encoded(self) -> Encoded:
        """Return the block as a row in which every token but the first is learned; nothing predicts the first."""
        return Encoded(ids=self.ids, answer_start=1)


def cut_blocks(rows: Iterable[Row], template: Template, context: int) -> list[Block]:
    """Concatenate the texts of rows and cut them into blocks of `context` tokens.

    The tokenizer's start tokens begin every block, because models that were trained with them predict badly without
    them, and separate texts. If the tokenizer adds none, its end-of-sequence token separates texts and blocks begin
    without an extra token. An incomplete last block is dropped, unless it is the only one.

    Raises:
        DataError: The texts have fewer than two tokens.
    """
    start = template.start_ids
    texts, length = list[str](), 0
    ids, offsets = list[int](), list[tuple[int, int]]()
    for row in rows:
        row_text, row_ids, row_offsets = template.tokenize_row(row.question, row.answer)
        ids.extend(row_ids)
        offsets.extend((length + first, length + last) for first, last in row_offsets)
        texts.append(row_text)
        length += len(row_text)
    if len(ids) < 2:
        raise DataError("the forget text has fewer than two tokens.", fix="Provide a longer text.")

    text, blocks, first = "".join(texts), list[Block](), 0
    while first < len(ids):
        prefix = () if tuple(ids[first : first + len(start)]) == start else start
        last = first + context - len(prefix)
        if last <= len(ids) or not blocks:
            spans = offsets[first:last]
            text_start, text_end = spans[0][0], max(end for _, end in spans)
            # Added start tokens are not part of the text, so their spans are empty.
            block_offsets = [(0, 0)] * len(prefix) + [(begin - text_start, end - text_start) for begin, end in spans]
            blocks.append(Block(text[text_start:text_end], (*prefix, *ids[first:last]), tuple(block_offsets)))
        first = last
    return blocks

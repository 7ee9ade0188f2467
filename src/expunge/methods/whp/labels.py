"""Generic labels: what a model that never read the forget text would probably write after each of its tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.data.anchors.dictionary import Anchors, find_anchors
from expunge.data.blocks import Block
from expunge.data.templates import NO_LABEL
from expunge.modeling.adapters import causal_lm
from expunge.modeling.forward import head_of


class TokenSpans:
    """Writes an expression as tokens in the two ways in which it can stand in a text.

    Args:
        tokenizer: A fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[str, str], tuple[int, ...]] = {}

    def after_space(self, text: str) -> tuple[int, ...]:
        """Tokens where a word and a space come before it."""
        return self._after("a", f" {text}")

    def at_start(self, text: str) -> tuple[int, ...]:
        """Tokens where a line begins with it."""
        return self._after("\n", text)

    def first_tokens(self, text: str) -> set[int]:
        """Tokens with which it can begin."""
        return {self.after_space(text)[0], self.at_start(text)[0]}

    def _after(self, before: str, text: str) -> tuple[int, ...]:
        if (before, text) not in self._known:
            prefix = self._ids(before)
            whole = self._ids(before + text)
            # Tokenizers that merge across the border (none of the common ones) give the bare text's tokens.
            rest = whole[len(prefix) :] if whole[: len(prefix)] == prefix else self._ids(text)
            self._known[before, text] = tuple(rest or self._ids(text))
        return self._known[before, text]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Translation:
    """A block in which stand-ins have taken the anchors' places."""

    ids: tuple[int, ...]
    source: NDArray[np.int64]
    """(n,) position of `ids` whose prediction belongs to each position of the block; -1 where there is no label."""
    forbidden: tuple[tuple[int, frozenset[int]], ...]
    """(position, tokens): from that position of the block on, these first tokens of stand-ins are not to be learnt."""
    used: dict[str, str]
    """Anchor -> the stand-in that this block has for it."""


def translate(block: Block, anchors: Anchors, speller: TokenSpans, rng: np.random.Generator) -> Translation:
    """Put one stand-in per anchor into a block, the same wherever the anchor occurs.

    Positions inside an anchor get no label; its last token gets what follows the stand-in. Before the second and
    every later occurrence of an anchor there is no label either: the model has just read the name, so predicting it
    again is no knowledge of the text, and predicting the stand-in would teach a wrong name.

    Args:
        block: Original text and tokens.
        anchors: Expression -> stand-ins.
        speller: Writes stand-ins as tokens.
        rng: Chooses among an anchor's stand-ins; those that the block already has are taken last.

    References:
        Eldan & Russinovich 2023, arXiv:2310.02238, sections 3.2 and 3.3. Theirs finds anchors as token sequences;
        ours finds whole words in the text, so that an anchor never matches the beginning of another word.
    """
    ids: list[int] = []
    source = np.full(len(block.ids), -1, dtype=np.int64)
    forbidden: list[tuple[int, frozenset[int]]] = []
    used: dict[str, str] = {}
    done = 0
    for found in find_anchors(block.text, anchors):
        first, last = _tokens_of(block, found.start, found.end)
        # Where tokens reach over a name's ends it cannot be replaced; no common tokenizer does that to whole words.
        around = block.text[block.offsets[first][0] : found.start] + block.text[found.end : block.offsets[last][1]]
        if first < done or around.strip():
            continue
        source[done:first] = np.arange(len(ids), len(ids) + first - done)
        ids.extend(block.ids[done:first])
        if found.key in used:
            source[first - 1 : first] = -1
        else:
            used[found.key] = _choose(anchors[found.key], set(used.values()), rng)
            forbidden.append((last, frozenset(speller.first_tokens(used[found.key]))))
        spaced = block.ids[first] == speller.after_space(found.key)[0]
        stand_in = used[found.key]
        ids.extend(speller.after_space(stand_in) if spaced else speller.at_start(stand_in))
        source[last] = len(ids) - 1
        done = last + 1
    source[done:] = np.arange(len(ids), len(ids) + len(block.ids) - done)
    ids.extend(block.ids[done:])
    return Translation(tuple(ids), source, tuple(forbidden), used)


def offset_logits(generic: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """Take from every token's logit what the reinforced model raised, alpha times.

    v = v_generic - alpha * ReLU(v_reinforced - v_generic)

    Args:
        generic: (..., V) logits of the model that stands for general knowledge.
        reinforced: (..., V) logits of the model trained further on the forget text.
        alpha: How much of the rise is taken away; 0 leaves the generic logits.

    References:
        Eldan & Russinovich 2023, arXiv:2310.02238, equation 1.
    """
    return generic - alpha * torch.relu(reinforced - generic)


def generic_labels(generic: Tensor, reinforced: Tensor, translation: Translation, alpha: float) -> Tensor:
    """The most likely token of the offset logits at each position of a block.

    Args:
        generic: (m, V) logits of the base model on the translated block.
        reinforced: (n, V) logits of the reinforced model on the original block.
        translation: Joins the two.
        alpha: As in `offset_logits`.

    Returns:
        (n,) token ids, NO_LABEL where there is no label; entry t is what should follow position t. The first tokens of
        stand-ins that the block already has count as much as the mean token of their position.
    """
    source = torch.from_numpy(translation.source).to(generic.device)
    chosen = generic[source.clamp(min=0)]
    mean = chosen.mean(-1)
    for start, tokens in translation.forbidden:
        for token in tokens:
            chosen[start:, token] = mean[start:]
    labels = offset_logits(chosen, reinforced, alpha).argmax(-1)
    return labels.masked_fill(source < 0, NO_LABEL)


@dataclass(frozen=True)
class Labelled:
    """A block with its generic labels; all of shape (n,)."""

    labels: NDArray[np.int64]
    base_says: NDArray[np.int64]
    """Most likely next token of the base model on the original block."""


@torch.no_grad()
def label_blocks(
    base: Any, reinforced: Any, blocks: Sequence[Block], translations: Sequence[Translation], alpha: float
) -> list[Labelled]:
    """Generic labels of some blocks of equal length, in one forward pass per model and text.

    Args:
        base: The start model.
        reinforced: The start model trained further on the forget text.
        blocks: Blocks of equal length.
        translations: One per block.
        alpha: As in `offset_logits`.
    """
    originals = [block.ids for block in blocks]
    hidden_base, hidden_reinforced = _hidden(base, originals), _hidden(reinforced, originals)
    hidden_translated = _hidden(base, [translation.ids for translation in translations])
    head, head_reinforced = head_of(causal_lm(base)), head_of(causal_lm(reinforced))
    found = []
    for row, translation in enumerate(translations):
        generic = head(hidden_translated[row, : len(translation.ids)])
        labels = generic_labels(generic, head_reinforced(hidden_reinforced[row]), translation, alpha)
        says = head(hidden_base[row]).argmax(-1)
        found.append(Labelled(labels.cpu().numpy(), says.cpu().numpy()))
    return found


def _hidden(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """(B, L, D) last hidden states of rows padded on the right, where attention to the left makes padding harmless."""
    inner = causal_lm(model)
    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    device = next(inner.parameters()).device
    output = inner.base_model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    hidden: Tensor = output.last_hidden_state
    return hidden


def _tokens_of(block: Block, start: int, end: int) -> tuple[int, int]:
    """First and last token of a stretch of a block's text."""
    first = bisect_right(block.offsets, start, key=lambda offset: offset[1])
    last = bisect_left(block.offsets, end, key=lambda offset: offset[0]) - 1
    return first, last


def _choose(options: Sequence[str], taken: set[str], rng: np.random.Generator) -> str:
    free = [option for option in options if option not in taken] or list(options)
    return free[int(rng.integers(len(free)))]

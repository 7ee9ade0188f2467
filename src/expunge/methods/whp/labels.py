"""Generic labels: the tokens that a model which never saw the forget text would probably predict in it."""

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
from expunge.modeling.forward import head_of, run_inputs


class TokenSpans:
    """Token ids of an expression inside a text: after a space, or at the start of a line.

    Args:
        tokenizer: A fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[tuple[str, str], tuple[int, ...]] = {}

    def after_space(self, text: str) -> tuple[int, ...]:
        """Return the tokens of an expression that follows a word and a space."""
        return self._after("a", f" {text}")

    def at_start(self, text: str) -> tuple[int, ...]:
        """Return the tokens of an expression at the start of a line."""
        return self._after("\n", text)

    def first_tokens(self, text: str) -> set[int]:
        """Return the possible first tokens of an expression."""
        return {self.after_space(text)[0], self.at_start(text)[0]}

    def _after(self, prefix: str, text: str) -> tuple[int, ...]:
        if (prefix, text) not in self._cache:
            prefix_ids = self._ids(prefix)
            ids = self._ids(prefix + text)
            # A tokenizer that merges across the border (no common one does) gets the tokens of the text alone.
            span = ids[len(prefix_ids) :] if ids[: len(prefix_ids)] == prefix_ids else []
            self._cache[prefix, text] = tuple(span or self._ids(text))
        return self._cache[prefix, text]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Translation:
    """A block in which every anchor is replaced by a stand-in."""

    ids: tuple[int, ...]
    """Tokens of the translated block."""
    source: NDArray[np.int64]
    """(n,) per position of the block, the position in `ids` whose prediction becomes its label; -1 for no label."""
    forbidden: tuple[tuple[int, frozenset[int]], ...]
    """(position, tokens): from that position of the block on, these first tokens of a stand-in must not be labels."""
    used: dict[str, str]
    """Anchor -> its stand-in in this block."""


def translate(block: Block, anchors: Anchors, spans: TokenSpans, rng: np.random.Generator) -> Translation:
    """Replace every anchor in a block by a stand-in, the same one at each occurrence.

    Positions inside an anchor get no label; its last token gets what follows the stand-in. The position before a
    repeated anchor gets no label either: the model has just read the name, so predicting it again shows no knowledge
    of the text, and predicting the stand-in would teach a wrong name.

    Args:
        block: Original text and tokens.
        anchors: Anchor -> stand-ins.
        spans: Token ids of stand-ins.
        rng: Chooses one of an anchor's stand-ins; those that the block already uses are chosen last.

    References:
        Eldan & Russinovich 2023, arXiv:2310.02238, sections 3.2 and 3.3. Their code finds anchors as token sequences;
        here they are whole words of the text, so an anchor never matches the beginning of another word.
    """
    ids: list[int] = []
    source = np.full(len(block.ids), -1, dtype=np.int64)
    forbidden: list[tuple[int, frozenset[int]]] = []
    used: dict[str, str] = {}
    end = 0  # number of tokens of the block that are translated so far
    for anchor in find_anchors(block.text, anchors):
        first = bisect_right(block.offsets, anchor.start, key=lambda offset: offset[1])
        last = bisect_left(block.offsets, anchor.end, key=lambda offset: offset[0]) - 1
        # An anchor whose tokens contain other text cannot be replaced; no common tokenizer has such tokens.
        extra = block.text[block.offsets[first][0] : anchor.start] + block.text[anchor.end : block.offsets[last][1]]
        if first < end or extra.strip():
            continue
        source[end:first] = np.arange(len(ids), len(ids) + first - end)
        ids.extend(block.ids[end:first])
        if anchor.key in used:
            source[first - 1 : first] = -1
        else:
            options = anchors[anchor.key]
            unused = [option for option in options if option not in used.values()] or list(options)
            used[anchor.key] = unused[int(rng.integers(len(unused)))]
            forbidden.append((last, frozenset(spans.first_tokens(used[anchor.key]))))
        stand_in = used[anchor.key]
        has_space = block.ids[first] == spans.after_space(anchor.key)[0]
        ids.extend(spans.after_space(stand_in) if has_space else spans.at_start(stand_in))
        source[last] = len(ids) - 1
        end = last + 1
    source[end:] = np.arange(len(ids), len(ids) + len(block.ids) - end)
    ids.extend(block.ids[end:])
    return Translation(tuple(ids), source, tuple(forbidden), used)


def offset_logits(baseline: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """Lower each token's logit by alpha times the amount by which the reinforced model raises it.

    v_generic = v_baseline - alpha * ReLU(v_reinforced - v_baseline)

    Args:
        baseline: (..., V) logits of the baseline model.
        reinforced: (..., V) logits of the model trained further on the forget text.
        alpha: Factor on the rise; 0 returns the baseline logits.

    References:
        Eldan & Russinovich 2023, arXiv:2310.02238, equation 1.
    """
    return baseline - alpha * torch.relu(reinforced - baseline)


def generic_labels(baseline: Tensor, reinforced: Tensor, translation: Translation, alpha: float) -> Tensor:
    """Return the most likely token of the offset logits at each position of a block.

    Args:
        baseline: (m, V) logits of the baseline model on the translated block.
        reinforced: (n, V) logits of the reinforced model on the original block.
        translation: Maps positions of the block to positions of the translated block.
        alpha: As in `offset_logits`.

    Returns:
        (n,) token ids, NO_LABEL where there is no label; entry t is the label of the token after position t. The
        logits of forbidden tokens are set to the mean logit of their position.
    """
    source = torch.from_numpy(translation.source).to(baseline.device)
    aligned = baseline[source.clamp(min=0)]
    mean = aligned.mean(-1)
    for start, tokens in translation.forbidden:
        for token in tokens:
            aligned[start:, token] = mean[start:]
    labels = offset_logits(aligned, reinforced, alpha).argmax(-1)
    return labels.masked_fill(source < 0, NO_LABEL)


@dataclass(frozen=True)
class Labelled:
    """Generic labels and the target's predictions for one block, both of shape (n,)."""

    labels: NDArray[np.int64]
    """Generic label of the token after each position; NO_LABEL for none."""
    target_prediction: NDArray[np.int64]
    """Most likely next token of the target on the original block."""


@torch.no_grad()
def label_blocks(
    target: Any, reinforced: Any, blocks: Sequence[Block], translations: Sequence[Translation], alpha: float
) -> list[Labelled]:
    """Return the generic labels of blocks of equal length, with one forward pass per model and text.

    Args:
        target: The model before unlearning, which is the baseline model of the paper.
        reinforced: The target trained further on the forget text.
        blocks: Blocks of equal length.
        translations: One per block.
        alpha: As in `offset_logits`.
    """
    original_ids = [block.ids for block in blocks]
    target_hidden, reinforced_hidden = _last_hidden(target, original_ids), _last_hidden(reinforced, original_ids)
    translated_hidden = _last_hidden(target, [translation.ids for translation in translations])
    target_head, reinforced_head = head_of(causal_lm(target)), head_of(causal_lm(reinforced))
    labelled = []
    # One row at a time: the logits of a full batch would take much memory.
    for row, translation in enumerate(translations):
        baseline = target_head(translated_hidden[row, : len(translation.ids)])
        labels = generic_labels(baseline, reinforced_head(reinforced_hidden[row]), translation, alpha)
        prediction = target_head(target_hidden[row]).argmax(-1)
        labelled.append(Labelled(labels.cpu().numpy(), prediction.cpu().numpy()))
    return labelled


def _last_hidden(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return (B, L, D) last hidden states; padding is on the right, where causal attention makes it harmless."""
    inner = causal_lm(model)
    length = max(map(len, rows))
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    device = next(inner.parameters()).device
    return run_inputs(inner, {"input_ids": ids.to(device), "attention_mask": mask.to(device)})

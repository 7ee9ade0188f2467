"""Who's Harry Potter without training: the same offset, taken from the logits while the model writes."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from expunge.methods.whp.labels import offset_logits


class OffsetProcessor(transformers.LogitsProcessor):
    """Changes the logits of a model that generates: v_base - alpha * ReLU(v_reinforced - v_base).

    Give it to `generate` of the base model: `model.generate(ids, logits_processor=[OffsetProcessor(reinforced)])`.
    There are no anchors and no training; both models must be kept.

    Args:
        reinforced: The base model trained further on the forget text.
        alpha: How much of the rise is taken away.
        attention_mask: (B, L) mask of the prompts, where they are padded on the left.

    References:
        MUSE's baseline (Shi et al. 2024, arXiv:2407.06460) of Eldan & Russinovich 2023, arXiv:2310.02238, equation 1.
    """

    def __init__(self, reinforced: Any, alpha: float = 1.0, attention_mask: Tensor | None = None) -> None:
        self._model, self._alpha, self._prompt_mask = reinforced.eval(), alpha, attention_mask
        self._cache: Any = None
        self._seen: Tensor | None = None

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Offset logits of the next token, (B, V)."""
        mask = self._mask(input_ids)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        # One new token after the same text needs one step; anything else (a new prompt, reordered beams) starts anew.
        goes_on = (
            self._seen is not None
            and input_ids.shape[1] == self._seen.shape[1] + 1
            and torch.equal(input_ids[:, :-1], self._seen)
        )
        if not goes_on:
            self._cache = transformers.DynamicCache(config=self._model.config)
        new = slice(-1, None) if goes_on else slice(None)
        output = self._model(
            input_ids=input_ids[:, new],
            attention_mask=mask,
            position_ids=positions[:, new],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._seen = input_ids.clone()
        return offset_logits(scores, output.logits[:, -1].to(scores.dtype), self._alpha)

    def _mask(self, input_ids: Tensor) -> Tensor:
        mask = torch.ones_like(input_ids)
        if self._prompt_mask is not None:
            prompt = self._prompt_mask.to(mask)
            mask[:, : prompt.shape[1]] = prompt
        return mask

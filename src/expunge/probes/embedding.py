"""Embeddings of texts by a local embedding model, for semantic similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from expunge.console import progress
from expunge.errors import DataError, one_line
from expunge.modeling.load import check_model_folder, context_length, load_tokenizer

Array = np.ndarray[Any, Any]
BATCH_SIZE = 32


@torch.no_grad()
def embed(name: str, texts: Sequence[str]) -> Array:
    """Embed each text as the mean of its tokens' last hidden states.

    Args:
        name: Folder or hub id of a text model, such as a sentence-transformers model with mean pooling. Texts longer
            than its context are truncated.
        texts: Texts to embed.

    Returns:
        (number of texts, D) float32; a text without tokens has the zero vector.

    Raises:
        DataError: The model does not exist or cannot be read.
    """
    check_model_folder(name)
    tokenizer = load_tokenizer(name)
    try:
        model = transformers.AutoModel.from_pretrained(name, use_safetensors=True).eval()
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise DataError(f"the embedding model {name} cannot be loaded: {one_line(error)}") from error
    max_length = min(context_length(model.config), getattr(tokenizer, "model_max_length", 1 << 20))
    embeddings = []
    with progress("Embedding", len(texts), "texts") as advance:
        for start in range(0, len(texts), BATCH_SIZE):
            batch = list(texts[start : start + BATCH_SIZE])
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            hidden = getattr(output, "last_hidden_state", None)
            if hidden is None:
                raise DataError(
                    f"{name} ({type(model).__name__}) returns no hidden state per token, so it cannot embed texts.",
                    fix="Give a text encoder, such as a sentence-transformers model with mean pooling.",
                )
            mask = inputs["attention_mask"][:, :, None].to(hidden.dtype)
            embeddings.append(((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).float().numpy())
            advance(len(batch))
    return np.concatenate(embeddings) if embeddings else np.empty((0, 0), np.float32)

"""Labels of the metrics that several benchmarks compute for answers."""

from __future__ import annotations

from expunge.records import Label

ANSWER_LABELS = {
    "probability": Label(title="probability of the answer", explain="per token; high for answers that the model knows"),
    "exact_memorization": Label(
        title="exact memorisation", explain="share of the answer's tokens that the model ranks first"
    ),
    "extraction_strength": Label(
        title="extraction strength", explain="share of the answer that the model completes word for word"
    ),
    "rouge_l_recall": Label(
        title="ROUGE-L recall", explain="how much of the true answer the generated answer contains"
    ),
    "repetition": Label(title="repetition", explain="share of repeated 4-grams in generated answers", better="lower"),
}
"""Presentation of metrics by the last part of their name."""

"""Relearn: fine-tune a copy on related rows, and test it on forget rows that it was not trained on."""

from expunge.audits.relearn.audit import Relearn

__all__ = ["Relearn"]

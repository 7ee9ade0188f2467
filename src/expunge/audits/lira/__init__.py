"""The audit `lira`: a likelihood-ratio membership attack with shadow models."""

from expunge.audits.lira.audit import Lira

__all__ = ["Lira"]

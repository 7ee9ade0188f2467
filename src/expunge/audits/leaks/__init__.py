"""Leak audit: query forgotten facts with paraphrases, repeated sampling, hints and prefixes."""

from expunge.audits.leaks.audit import Leaks

__all__ = ["Leaks"]

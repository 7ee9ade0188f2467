"""Leaks: is what should be gone still said, when it is asked for in other ways, often, or with help?"""

from expunge.audits.leaks.audit import Leaks

__all__ = ["Leaks"]

"""Errors that a user can act on, and the wording helpers that they share.

Every message has three parts: what is wrong and where, what is allowed or nearest, what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user can put right; printed without a traceback, exit code 2."""

    def __init__(self, problem: str, *, allowed: str = "", fix: str = "") -> None:
        self.problem, self.allowed, self.fix = problem, allowed, fix
        super().__init__(" ".join(part for part in (problem, allowed, fix) if part))


class ConfigError(UserError):
    """One or more settings are wrong; all of them are listed at once."""

    def __init__(self, problems: Sequence[str], *, source: str = "the recipe") -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        listing = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{count} in {source}:\n{listing}")


class DataError(UserError):
    """A data set, model folder or record cannot be used as it is."""


class IncompatibleError(UserError):
    """Two inputs, each fine alone, do not belong together."""


class NotHereError(UserError):
    """This machine lacks what a recipe needs; another one may have it."""


class MissingExtraError(NotHereError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed.",
            fix=f"Install it with: pip install 'expunge[{extra}]'",
        )


class NumericalError(UserError):
    """A loss became infinite or NaN; training stopped before it could spoil the weights."""


class Interrupted(Exception):
    """The user stopped the work; everything finished so far is on disk and the same command goes on from it."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Sentence that names the closest option, or lists the options when none is close.

    Example:
        >>> nearest("npoo", ["npo", "simnpo"])
        "Did you mean 'npo'?"
    """
    choices = sorted(options)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Allowed: {', '.join(choices)}." if choices else ""

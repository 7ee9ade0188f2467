"""Errors that a user can act on, and helpers that word their messages.

Each message states what is wrong and where, what is allowed or the nearest match, and what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_MOST_LISTED = 20
"""Number of problems that one message lists."""


class UserError(Exception):
    """A problem that the user can fix; printed without a traceback, exit code 2."""

    def __init__(self, problem: str, *, allowed: str = "", fix: str = "") -> None:
        self.problem, self.allowed, self.fix = problem, allowed, fix
        super().__init__(" ".join(sentence for sentence in (problem, allowed, fix) if sentence))


class ConfigError(UserError):
    """Invalid settings, all listed at once."""

    def __init__(self, problems: Sequence[str], *, source: str = "the recipe") -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        listing = "\n".join(f"  - {problem}" for problem in self.problems[:_MOST_LISTED])
        if len(self.problems) > _MOST_LISTED:
            listing += f"\n  - and {len(self.problems) - _MOST_LISTED} more"
        super().__init__(f"{count} in {source}:\n{listing}")


class DataError(UserError):
    """A data set, model folder or record that is missing, damaged or invalid."""


class IncompatibleError(UserError):
    """Two inputs that are valid separately but cannot be used together."""


class NotHereError(UserError):
    """A requirement that this machine does not meet but another machine may."""


class MissingExtraError(NotHereError):
    """An optional dependency that is required but not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed.",
            fix=f"Install it with: pip install 'expunge[{extra}]'",
        )


class NumericalError(UserError):
    """A loss that is infinite or NaN; training stopped before the optimiser step that would have used it."""


class Interrupted(Exception):
    """A stop requested by the user; finished work is on disk and the same command resumes it."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return a hint that names the closest option, or lists all options if none is close.

    Example:
        >>> nearest("npoo", ["npo", "simnpo"])
        "Did you mean 'npo'?"
    """
    choices = sorted(options)
    matches = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if matches:
        return f"Did you mean '{matches[0]}'?"
    return f"Allowed: {', '.join(choices)}." if choices else ""


def one_line(error: BaseException) -> str:
    """Return an exception's message on a single line."""
    return " ".join(str(error).split())


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with the characters that could control a terminal written as escapes.

    These are ANSI and other control codes, marks that reverse the order of the text, and halves of characters. Line
    breaks and tabs remain. The escapes are those of JSON, so JSON keeps its meaning.

    Example:
        >>> printable("\x1b[31mred")
        '\\u001b[31mred'
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)

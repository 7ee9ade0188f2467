"""The rule by which a sweep chooses: read from the words of the user, and said back in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = r"[A-Za-z_][\w/]*"
_FORM = re.compile(
    rf"^(?P<goal>max|min)\s+(?P<name>{_NAME})"
    rf"(\s+subject\s+to\s+(?P<guard>{_NAME})\s*(?P<sign>>=|<=)\s*(?P<bound>[-+]?[0-9.]+([eE][-+]?[0-9]+)?))?$"
)
_MEAN = re.compile(r"^max\s+mean\s+of\s+both$")
ALLOWED = (
    "Write 'max NAME', 'min NAME', 'max NAME subject to NAME >= NUMBER' (or min, or <=), or 'max mean of both'; "
    "a NAME is a headline such as forget_quality."
)


@dataclass(frozen=True)
class Rule:
    """What is best: a headline, or the harmonic mean of all objectives, perhaps where another stays within bounds."""

    text: str
    """As the user wrote it."""
    names: tuple[str, ...]
    """Headlines that are compared: one, or all that the mean is of."""
    sign: int = 1
    """1 where more is better, -1 where less is."""
    guard: str = ""
    """Headline that must stay within the bound; empty without one."""
    guard_sign: int = 1
    """1: the guard must be at least the bound; -1: at most."""
    bound: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """Every headline that the rule looks at."""
        return (*self.names, self.guard) if self.guard else self.names

    @property
    def words(self) -> str:
        """The rule as a sentence's object: 'the trial with ...'."""
        what = self.names[0] if len(self.names) == 1 else f"harmonic mean of {' and '.join(self.names)}"
        end = "highest" if self.sign > 0 else "lowest"
        if not self.guard:
            return f"the trial with the {end} {what}"
        limit = "at least" if self.guard_sign > 0 else "at most"
        return f"the trial with the {end} {what} among those whose {self.guard} is {limit} {self.bound:g}"


def read_rule(text: str, objectives: Mapping[str, str]) -> Rule:
    """Read a rule such as 'max model_utility subject to forget_quality >= 0.05'.

    'max mean of both' is the harmonic mean 2 / (1/a + 1/b) of the objectives (n / sum of 1/x for n of them). It
    depends on no other trial, is dominated by the smaller number, and needs objectives that lie above 0 and are
    better when higher.

    Args:
        text: The user's words.
        objectives: Headline -> 'up' or 'down'; what 'both' stands for.

    Raises:
        ValueError: The words are none of these forms, or a mean is asked of objectives that it does not suit.
    """
    plain = " ".join(text.split())
    if _MEAN.match(plain):
        if len(objectives) < 2:
            raise ValueError("'max mean of both' needs at least two objectives")
        falling = [name for name, direction in objectives.items() if direction == "down"]
        if falling:
            raise ValueError(f"'max mean of both' needs objectives that are better when higher; {falling[0]} is not")
        return Rule(plain, tuple(objectives))
    found = _FORM.match(plain)
    if found is None:
        raise ValueError(f"'{text}' is not a rule. {ALLOWED}")
    guard = found["guard"] or ""
    try:
        bound = float(found["bound"] or 0)
    except ValueError as error:
        raise ValueError(f"'{found['bound']}' is not a number. {ALLOWED}") from error
    return Rule(
        plain,
        (found["name"],),
        sign=1 if found["goal"] == "max" else -1,
        guard=guard,
        guard_sign=-1 if found["sign"] == "<=" else 1,
        bound=bound,
    )

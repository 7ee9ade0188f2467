"""Selection rules such as 'max model_utility subject to forget_quality >= 0.05', for epochs and for trials."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from expunge.errors import nearest
from expunge.records import Value

_NAME = r"[A-Za-z_][\w/]*"
_FORM = re.compile(
    rf"^(?P<goal>max|min)\s+(?P<name>{_NAME})"
    rf"(\s+subject\s+to\s+(?P<guard>{_NAME})\s*(?P<sign>>=|<=)\s*(?P<bound>[-+]?[0-9.]+([eE][-+]?[0-9]+)?))?$"
)
_MEAN = re.compile(r"^max\s+mean\s+of\s+both$")
LAST = "last"
ALLOWED = (
    "Write 'max NAME', 'min NAME' or 'max NAME subject to NAME >= NUMBER' (or min, or <=), where NAME is a headline "
    "such as forget_quality"
)
ALLOWED_FOR_EPOCHS = f"{ALLOWED}; or 'last'."
ALLOWED_FOR_TRIALS = f"{ALLOWED}; or 'max mean of both'."

Score = tuple[int, float]
"""(1 within the bound or 0 outside, how good): compares as tuples do, more is better."""


@dataclass(frozen=True)
class Rule:
    """The best candidate by one headline or by the harmonic mean of several, with an optional bound on another."""

    text: str
    """The rule as the user wrote it."""
    names: tuple[str, ...]
    """Headlines that are compared: one, or all that the mean is computed from; none for 'last'."""
    sign: int = 1
    """1 where higher is better, -1 where lower is."""
    guard: str = ""
    """Headline that must stay within the bound; empty without one."""
    guard_sign: int = 1
    """1: the guard must be at least the bound; -1: at most."""
    bound: float = 0.0

    @property
    def is_last(self) -> bool:
        """Whether the last candidate is chosen, whatever its headlines are."""
        return not self.names

    @property
    def needs(self) -> tuple[str, ...]:
        """Every headline that the rule uses."""
        return (*self.names, self.guard) if self.guard else self.names

    def words(self, candidate: str) -> str:
        """Return the rule as the object of a sentence: 'the trial with the highest model_utility'."""
        if self.is_last:
            return f"the last {candidate}"
        name = self.names[0] if len(self.names) == 1 else f"harmonic mean of {' and '.join(self.names)}"
        text = f"the {candidate} with the {'highest' if self.sign > 0 else 'lowest'} {name}"
        if not self.guard:
            return text
        limit = "at least" if self.guard_sign > 0 else "at most"
        return f"{text} among those whose {self.guard} is {limit} {self.bound:g}"

    def words_as_applied(self, candidates: Sequence[Mapping[str, Value]], candidate: str) -> str:
        """Return the rule in words, or what replaced it where no candidate is within the bound."""
        if self.is_last:
            return self.words(candidate)
        scores = [score for values in candidates if (score := self.score(values)) is not None]
        if self.guard and scores and all(within == 0 for within, _ in scores):
            limit = "reached" if self.guard_sign > 0 else "stayed within"
            return f"the {candidate} nearest to the bound, since none {limit} {self.guard} of {self.bound:g}"
        return self.words(candidate)

    def score(self, values: Mapping[str, Value]) -> Score | None:
        """Return how good headlines are; None where a headline that the rule needs is missing.

        Outside the bound the score is the distance to it, so that the nearest candidate is best when none is within.
        """
        points = {name: value.point for name in self.needs if (value := values.get(name)) and value.point is not None}
        if len(points) < len(set(self.needs)):
            return None
        if self.guard and self.guard_sign * points[self.guard] < self.guard_sign * self.bound:
            return 0, self.guard_sign * (comparable(values, self.guard) or 0.0)
        if len(self.names) > 1:
            return 1, harmonic_mean(list(points.values()))
        return 1, self.sign * (comparable(values, self.names[0]) or 0.0)

    def choose(self, candidates: Sequence[Mapping[str, Value]]) -> int | None:
        """Return the index of the best candidate; ties go to the earlier one, None where no candidate has a score."""
        if self.is_last:
            return len(candidates) - 1 if candidates else None
        scores = {index: score for index, values in enumerate(candidates) if (score := self.score(values)) is not None}
        return max(scores, key=lambda index: (scores[index], -index)) if scores else None

    def unknown(self, headlines: Collection[str]) -> list[str]:
        """Return a message for each name in the rule that is no headline.

        Args:
            headlines: Names of all headlines that the benchmarks report.
        """
        return [
            f"select: '{name}' is not a headline of these benchmarks. {nearest(name, headlines)}".rstrip()
            if headlines
            else f"select: '{name}' cannot be compared, because evaluate.benchmarks is empty."
            for name in dict.fromkeys(self.needs)
            if name not in headlines
        ]


def comparable(values: Mapping[str, Value], name: str) -> float | None:
    """Return a headline as the number to compare; None if it is absent.

    P-values are compared by their logarithm, because they can be too small for a float.
    """
    value = values.get(name)
    if value is None or value.point is None:
        return None
    return value.extra.get("log10", value.point)


def harmonic_mean(points: Sequence[float]) -> float:
    """Return n / sum_i 1/x_i; 0 where one of the points is 0 or below.

    Example:
        >>> harmonic_mean([0.5, 1.0])
        0.6666666666666666
    """
    if min(points) <= 0:
        return 0.0
    return len(points) / math.fsum(1 / point for point in points)


def read_rule(text: str, *, allowed: str = ALLOWED_FOR_EPOCHS) -> Rule:
    """Parse a rule such as 'last' or 'max model_utility subject to forget_quality >= 0.05'.

    Args:
        text: The rule as the user wrote it.
        allowed: Sentence that lists the allowed forms.

    Raises:
        ValueError: The text has none of these forms.
    """
    plain = " ".join(text.split())
    if plain == LAST and "'last'" in allowed:
        return Rule(plain, ())
    match = _FORM.match(plain)
    if match is None:
        raise ValueError(f"'{text}' is not a rule. {allowed}")
    try:
        bound = float(match["bound"] or 0)
    except ValueError as error:
        raise ValueError(f"'{match['bound']}' is not a number. {allowed}") from error
    return Rule(
        plain,
        (match["name"],),
        sign=1 if match["goal"] == "max" else -1,
        guard=match["guard"] or "",
        guard_sign=-1 if match["sign"] == "<=" else 1,
        bound=bound,
    )


def read_trial_rule(text: str, objectives: Mapping[str, str]) -> Rule:
    """Parse the rule of a sweep, which can also be 'max mean of both'.

    'max mean of both' is the harmonic mean 2 / (1/a + 1/b) of the objectives (n / sum of 1/x for n of them). It
    does not depend on other trials, is dominated by the smaller value, and needs objectives that are above 0 and
    better when higher.

    Args:
        text: The rule as the user wrote it.
        objectives: Headline -> 'up' or 'down'; the mean is computed from all of them.

    Raises:
        ValueError: The text has none of these forms, or the objectives do not suit a mean.
    """
    plain = " ".join(text.split())
    if not _MEAN.match(plain):
        return read_rule(text, allowed=ALLOWED_FOR_TRIALS)
    if len(objectives) < 2:
        raise ValueError("'max mean of both' needs at least two objectives")
    falling = [name for name, direction in objectives.items() if direction == "down"]
    if falling:
        raise ValueError(f"'max mean of both' needs objectives that are better when higher; {falling[0]} is not")
    return Rule(plain, tuple(objectives))

"""Results of checks, and the report that lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from expunge.errors import ConfigError, NotHereError, UserError
from expunge.records import Record


class CheckItem(Record):
    """Result of one check."""

    name: str
    status: Literal["ok", "failed", "not checked"]
    detail: str
    """For 'ok' a summary; for 'failed' what to do; for 'not checked' the reason."""


class CheckReport(Record):
    """Results of all checks of one recipe."""

    recipe: str
    items: list[CheckItem]

    @property
    def failed(self) -> list[CheckItem]:
        """The failed checks."""
        return [item for item in self.items if item.status == "failed"]

    @property
    def num_checks(self) -> int:
        """Number of checks that were possible."""
        return sum(item.status != "not checked" for item in self.items)

    def raise_failed(self) -> None:
        """Raise one error that lists all failed checks.

        Raises:
            ConfigError: At least one check failed.
        """
        if self.failed:
            raise ConfigError([f"{item.name}: {item.detail}" for item in self.failed], source=self.recipe)


class NotChecked(Exception):
    """Raised by a check that is impossible here, with the reason."""


def run_checks(checks: Sequence[tuple[str, Callable[[], str]]], here: bool = True) -> list[CheckItem]:
    """Run all checks; a failure does not stop the others.

    Args:
        checks: Name of each check, and a function that returns a summary or raises.
        here: Whether the recipe will run on this machine; otherwise what is missing here is 'not checked'.
    """
    items = []
    for name, function in checks:
        try:
            items.append(CheckItem(name=name, status="ok", detail=function()))
        except NotChecked as error:
            items.append(CheckItem(name=name, status="not checked", detail=str(error)))
        except NotHereError as error:
            items.append(CheckItem(name=name, status="failed" if here else "not checked", detail=str(error)))
        except UserError as error:
            items.append(CheckItem(name=name, status="failed", detail=str(error)))
    return items

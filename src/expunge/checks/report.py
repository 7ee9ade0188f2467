"""Items of a check and the report that lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from expunge.errors import ConfigError, NotHereError, UserError
from expunge.records import Record


class CheckItem(Record):
    """One check and how it ended."""

    name: str
    status: Literal["ok", "failed", "not checked"]
    detail: str
    """What was found; for 'failed' what to do; for 'not checked' why not."""


class CheckReport(Record):
    """All checks of one recipe."""

    recipe: str
    items: list[CheckItem]

    @property
    def failed(self) -> list[CheckItem]:
        """The checks that found something wrong."""
        return [item for item in self.items if item.status == "failed"]

    @property
    def num_checks(self) -> int:
        """Checks that were really made."""
        return sum(item.status != "not checked" for item in self.items)

    def raise_failed(self) -> None:
        """Raise one error that lists everything that failed, if anything did.

        Raises:
            ConfigError: At least one check failed.
        """
        if self.failed:
            raise ConfigError([f"{item.name}: {item.detail}" for item in self.failed], source=self.recipe)


class NotChecked(Exception):
    """A check cannot be made here, and why."""


def run_checks(checks: Sequence[tuple[str, Callable[[], str]]], here: bool = True) -> list[CheckItem]:
    """Make each check; a failure does not stop the others."""
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

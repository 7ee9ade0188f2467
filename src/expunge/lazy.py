"""Lazy re-exports: public names of a package that are imported from their modules on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for a package whose public names are defined in other modules.

    Importing the package then imports none of these modules, some of which load torch.

    Args:
        package: Name of the package.
        exports: Module -> the public names that it defines.
    """
    modules = {name: module for module, names in exports.items() for name in names}

    def get_attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return get_attribute, lambda: sorted(modules), list(modules)

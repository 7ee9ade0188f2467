"""Unlearning methods: the base classes for user-defined ones, and one file or package per packaged method.

The name of the file or package is the name of the method in recipes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.lazy import lazy_exports

if TYPE_CHECKING:
    from expunge.methods.base import FineTuning as FineTuning
    from expunge.methods.base import Forward as Forward
    from expunge.methods.base import Method as Method
    from expunge.methods.base import Needs as Needs
    from expunge.methods.base import Objective as Objective
    from expunge.methods.base import Preparation as Preparation
    from expunge.methods.base import RetainMethod as RetainMethod
    from expunge.methods.base import Start as Start
    from expunge.modeling.step import LossTerms as LossTerms
    from expunge.modeling.step import Step as Step
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "expunge.methods.base": (
                *("Method", "RetainMethod", "Needs", "Forward", "FineTuning", "Objective", "Preparation", "Start"),
            ),
            "expunge.modeling.step": ("Step", "LossTerms"),
        },
    )

"""Make a model's `forward` run a training step, so that every wrapper around the model takes part.

Adapters, autocast, DDP and FSDP act when the model is called: they cast inputs, gather sharded weights, or prepare the
reduction of gradients. A loss computed outside of `forward`, by calling the decoder and the output layer directly,
would bypass them. `attach` therefore replaces `model.forward` of one model at run time. The trainer then calls
`model(step=..., objective=...)`, and the step runs its own forward passes inside, without knowing the wrappers.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from expunge.modeling.step import LossTerms, Step
from expunge.modeling.types import CausalLM


def attach(model: CausalLM) -> None:
    """Let `model.forward` accept `step` and `objective`, and return the loss of the objective.

    Calls without these arguments reach the original forward pass. Attaching twice has no effect.
    """
    original = model.forward
    if getattr(original, "runs_steps", False):
        return

    @functools.wraps(original)
    def forward(
        self: CausalLM,
        *args: Any,
        step: Step | None = None,
        objective: Callable[[Step], LossTerms] | None = None,
        **kwargs: Any,
    ) -> Any:
        if step is None or objective is None:
            return original(*args, **kwargs)
        step.bind(self)
        terms = objective(step)
        return {"loss": terms.total, "terms": terms.terms, "metrics": terms.metrics}

    forward.runs_steps = True  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)

"""Adaptive RMU: RMU with a control vector as long as the layer's own hidden states, times a factor."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from expunge.methods.base import Objective, Start
from expunge.methods.bases.steering import SteeringMethod
from expunge.methods.rmu import RMUObjective


class AdaptiveRMU(SteeringMethod):
    """Adaptive representation misdirection.

    L = mean_{B,L,D} (h_l(x_f) - beta * m_k * u_k)^2 + alpha * mean_{B,L,D} (h_l(x_r) - h_l^frozen(x_r))^2

    This is RMU's loss with beta * m_k in place of c. m_k is the mean length of the frozen model's hidden states at the
    layer over all positions of topic k's first batch, padding and first tokens included as published, and is fixed
    from then on.

    Hidden states grow with depth, so RMU's c, right for layer 7, is too short for later layers; a length relative to
    the hidden states works there too. Where the first token's hidden state is very long, m_k is large because of it.
    """

    paper: ClassVar[str] = "Dang et al. 2024, arXiv:2408.06223, sec. 5"

    scale: float = Field(default=5.0, gt=0)
    """Factor on the mean length; the paper's beta."""

    @torch.no_grad()
    def control_norm(self, start: Start, topic: int) -> float:
        """Return scale times the mean length of the frozen model's hidden states on the topic's first batch."""
        from expunge.modeling.hidden.trace import layer_trace

        hidden = layer_trace(start.model, start.batch("forget", topic), self.layer).hidden
        return self.scale * float(hidden.float().norm(dim=-1).mean())

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """Return RMU's loss with control vectors of that length."""
        return RMUObjective(self)

"""RMU with latent adversarial training: steer forget text while an attack pushes its hidden states towards recall."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from expunge.distributed import refuse_fsdp
from expunge.errors import IncompatibleError
from expunge.losses.representation import project
from expunge.methods.base import Needs, Objective, Start
from expunge.methods.rmu import RMU, RMUObjective

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import Step


class RMULAT(RMU):
    """RMU under a latent attack.

    delta* = argmin_{||delta_t|| <= epsilon} CE(x_f; h_{l-1} + delta),   then RMU's loss with h_l(h_{l-1} + delta*)

    Before each step an attacker adds a vector to the residual stream that enters layer l, at every real token of the
    forget rows, and improves it by `inner_steps` steps of Adam to make the forget text likely again; after each of
    them every vector is shortened to length epsilon if it is longer. RMU's forget term is then taken under that
    attack; the retain term never is. The knowledge becomes harder to bring back, at the cost of `inner_steps` full
    passes per step.

    Differs from the published code: one model update per attack (4 on the same batch there). Others report that the
    published setting costs far more utility than the paper states; watch the retain side.
    """

    paper: ClassVar[str] = "Sheshadri et al. 2024, arXiv:2407.15549, sec. 4"

    epsilon: float = Field(default=1.0, gt=0)
    """Longest vector that the attacker may add to a token's hidden state; published 1 to 2."""
    inner_steps: int = Field(default=16, ge=1)
    """Steps of the attacker per step of the model."""
    inner_lr: float = Field(default=5e-2, gt=0)
    """The attacker's learning rate."""

    def needs(self) -> Needs:
        """Declare what RMU needs, and that the attack runs all layers, padding included."""
        base = super().needs()
        # The attack adds a vector for each row of a batch, so forget rows cannot be stored one by one.
        return replace(base, forward=replace(base.forward, last_layer=None, padded=True, stored=("retain",)))

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """Return RMU's loss under attack."""
        return _AttackedObjective(self)


class _AttackedObjective(RMUObjective):
    method: RMULAT

    def start(self, start: Start) -> None:
        """Prepare RMU's loss, and keep the model that is attacked.

        Raises:
            IncompatibleError: Gradient checkpointing is on, which would repeat forward passes without the attack; or
                FSDP, which would reshard the weights in the middle of a step.
        """
        if any(getattr(module, "gradient_checkpointing", False) for module in start.model.modules()):
            raise IncompatibleError(
                "rmulat does not work with gradient checkpointing, which repeats forward passes without the attack.",
                fix="Set model.gradient_checkpointing=false and a smaller train.device_batch_size.",
            )
        refuse_fsdp("rmulat", "runs the model back and forth many times within one step")
        super().start(start)
        self._model: Any = start.model

    def forget_hidden(self, step: Step) -> Tensor:
        """Return the hidden states of the forget rows under the attack, which has a vector for each padded position."""
        from expunge.modeling.hidden.trace import add_to_residual

        step.keep_padding()
        with add_to_residual(self._model, self.method.layer, self.attack(step)):
            return super().forget_hidden(step)

    def attack(self, step: Step) -> Tensor:
        """Return the attacker's (B, L, D) vectors: zero on padding, at most epsilon long elsewhere."""
        from expunge.modeling.hidden.trace import add_to_residual

        mask = step.batches["forget"].attention_mask[..., None]
        size = self._model.config.get_text_config().hidden_size
        delta = torch.zeros(*mask.shape[:2], size, device=mask.device, requires_grad=True)
        attacker = torch.optim.Adam([delta], lr=self.method.inner_lr)
        for _ in range(self.method.inner_steps):
            with torch.enable_grad(), add_to_residual(self._model, self.method.layer, delta * mask):
                nll = step.only("forget").nll("forget")
            (delta.grad,) = torch.autograd.grad(nll, [delta])
            attacker.step()
            with torch.no_grad():
                delta.copy_(project(delta, self.method.epsilon))
        return (delta * mask).detach()

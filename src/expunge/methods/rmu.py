"""RMU: steer a layer's hidden states of forget text in a random direction, and preserve those of retain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from expunge.losses.representation import control_vector, cosine, relative_distance, squared_distance
from expunge.methods.base import Objective, Start
from expunge.methods.bases.steering import SteeringMethod, topic_value

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.hidden.steering_pass import SteeringPass
    from expunge.modeling.step import LossTerms, Step


class RMU(SteeringMethod):
    """Representation misdirection for unlearning.

    loss = mean_{B,T,D} (h_l(x_f) - c_k * u_k)^2 + alpha_k * mean_{B,T,D} (h_l(x_r) - h_l^frozen(x_r))^2

    The means are over the B rows, T positions and D dimensions of h_l, the output of decoder layer l. u_k is a random
    unit vector without negative entries, sampled once per topic k of K; optimizer step i uses only rows of topic
    i mod K. Only `update_modules` of `update_layers` are trained, and the forward pass stops at layer l. The layers
    above receive hidden states unlike any that they were pretrained on, so the answers become random.

    Published settings: layer 7 of 32 (counted from 0), down_proj of layers 5 to 7, constant learning rate, no weight
    decay, no gradient clipping. In a correct run the forget term hardly falls: the hidden state of a row's first token
    has a norm about 100 times that of the others and dominates the mean. Watch forget_cosine and retain_distance in
    train.jsonl instead; both exclude the first token.

    It fails if c is small relative to the norm of the hidden states (nothing is forgotten; deeper layers need a larger
    c, see adaptivermu) or if alpha is small (everything is forgotten). Brief fine-tuning can often bring the knowledge
    back: audit the result. The official code pads on the left and runs in half precision. This implementation pads on
    the right and keeps float32 weights, so the proportion of padding in the means differs, and some values slightly.
    """

    paper: ClassVar[str] = "Li et al. 2024, arXiv:2403.03218 (the WMDP paper), sec. 4"

    c: list[float] = Field(default=[6.5], min_length=1)
    """Norm of the control vector, per topic; a single value applies to all topics."""

    def control_norm(self, start: Start, topic: int) -> float:
        """Return c of the topic."""
        return topic_value("c", self.c, start.topics, topic)

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """Return the loss, which samples its control vectors at the start."""
        return RMUObjective(self)


class RMUObjective(Objective):
    """The loss of RMU, with control vectors that are sampled before the first step."""

    def __init__(self, method: SteeringMethod) -> None:
        super().__init__(self.loss)
        self.method = method
        self.steering: SteeringPass
        self.control_vectors: dict[str, Tensor] = {}
        self.alphas: dict[str, float] = {}

    def start(self, start: Start) -> None:
        """Copy the frozen weights and sample one control vector per topic, in order."""
        self.steering = self.method.steering_pass(start)
        generator = torch.Generator().manual_seed(start.seed)
        device, width = next(start.model.parameters()).device, start.model.config.get_text_config().hidden_size
        for index, topic in enumerate(start.topics):
            self.alphas[topic] = topic_value("alpha", self.method.alpha, start.topics, index)
            norm = self.method.control_norm(start, index)
            self.control_vectors[topic] = control_vector(width, norm, generator).to(device)

    def loss(self, step: Step) -> LossTerms:
        """Return the forget and retain terms of one step."""
        from expunge.modeling.step import LossTerms

        mean = step.answer_mean
        if self.method.positions == "all":
            step.keep_padding()
            mean = step.position_mean
        control, alpha = self.control_vectors[step.topic], self.alphas[step.topic]
        h_forget = self.forget_hidden(step)
        h_retain, h_frozen = step.layer_and_frozen("retain", self.steering)
        terms = {
            "forget": mean(squared_distance(h_forget, control), "forget"),
            "retain": alpha * mean(squared_distance(h_retain, h_frozen), "retain"),
        }
        # Means over answer tokens exclude a row's first token, whose large norm would dominate.
        metrics = {
            "forget_cosine": step.answer_mean(cosine(h_forget.detach(), control), "forget"),
            "retain_distance": step.answer_mean(relative_distance(h_retain.detach(), h_frozen), "retain"),
        }
        return LossTerms(terms, metrics)

    def forget_hidden(self, step: Step) -> Tensor:
        """Return the (B, T, D) hidden states of the forget rows, which the forget term steers."""
        return step.layer("forget", self.steering)

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

    L = mean_{B,L,D} (h_l(x_f) - c * u_k)^2 + alpha * mean_{B,L,D} (h_l(x_r) - h_l^frozen(x_r))^2

    h_l is the output of decoder layer l, and u_k a random unit vector without negative entries, sampled once per topic
    k; batch i has rows of topic i mod K. Only `update_modules` of `update_layers` are trained, and the forward pass
    stops at layer l. The layers above receive hidden states unlike any in training, so the answers become random.

    Published settings: layer 7 of 32, down_proj of layers 5 to 7, constant rate, no decay, no clipping. In a correct
    run the forget term hardly falls: the first token of a row has a hidden state about a hundred times longer than
    the others' and outweighs them. Watch forget_cosine and retain_distance in train.jsonl, which leave it out.

    It fails if c is small compared with the length of the hidden states (nothing is forgotten; deeper layers need a
    larger one, see adaptivermu), and if alpha is small (everything is forgotten). A little fine-tuning can often bring
    the knowledge back: audit the result. The official code pads on the left and runs in half precision; this one pads
    on the right and has float32 weights, so the share of padding in the means, and some values, differ slightly.
    """

    paper: ClassVar[str] = "Li et al. 2024, arXiv:2403.03218 (the WMDP paper), sec. 4"

    c: list[float] = Field(default=[6.5], min_length=1)
    """Length of the vector that hidden states are steered to, per topic; a single value applies to all."""

    def control_length(self, start: Start, topic: int) -> float:
        """Return c."""
        return topic_value("c", self.c, start.topics, topic)

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """Return the loss with its control vectors."""
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
        """Copy the frozen weights and sample one control vector per topic, in the topics' order."""
        self.steering = self.method.steering_pass(start)
        generator = torch.Generator().manual_seed(start.seed)
        device, size = next(start.model.parameters()).device, start.model.config.get_text_config().hidden_size
        for index, topic in enumerate(start.topics):
            self.alphas[topic] = topic_value("alpha", self.method.alpha, start.topics, index)
            length = self.method.control_length(start, index)
            self.control_vectors[topic] = control_vector(size, length, generator).to(device)

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
        # Answer tokens leave out a row's first token, whose long hidden state would hide all others.
        metrics = {
            "forget_cosine": step.answer_mean(cosine(h_forget.detach(), control), "forget"),
            "retain_distance": step.answer_mean(relative_distance(h_retain.detach(), h_frozen), "retain"),
        }
        return LossTerms(terms, metrics)

    def forget_hidden(self, step: Step) -> Tensor:
        """Return the (B, L, D) hidden states of the forget rows, which the forget term steers."""
        return step.layer("forget", self.steering)

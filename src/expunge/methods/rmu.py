"""RMU: steer a layer's hidden states on forget text to a random direction, and hold them still on retain text."""

from __future__ import annotations

from typing import ClassVar

from expunge.methods.bases.steering import FixedLength


class RMU(FixedLength):
    """Representation misdirection for unlearning.

    L = mean_{B,L,D} (h_l(x_f) - c * u_k)^2 + alpha * mean_{B,L,D} (h_l(x_r) - h_l^frozen(x_r))^2

    h_l is the output of decoder layer l, u_k a random unit vector without negative entries, drawn once per topic k;
    batch i holds rows of topic i mod K. Only `update_modules` of `update_layers` are trained, and the forward pass
    stops at layer l. The layers above meet states that they have never seen, and the answers become random.

    Published settings: layer 7 of 32, down_proj of layers 5 to 7, constant rate, no decay, no clipping. In a right
    run the forget term hardly falls: the first token of a row has a hidden state some hundred times longer than the
    others', and outweighs them. Watch forget_cosine and retain_distance in train.jsonl, which leave it out.

    It fails when c is small beside the hidden states' length (nothing is forgotten; deeper layers need more, see
    adaptivermu), and when alpha is small (everything is). What is hidden can often be brought back by a little
    fine-tuning: audit the result. The official code pads on the left and in half precision; ours pads on the right
    and keeps float32 weights, so the share of padding in the means, and single numbers, differ slightly.
    """

    paper: ClassVar[str] = "Li et al. 2024, arXiv:2403.03218 (the WMDP paper), sec. 4"

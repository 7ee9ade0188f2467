"""Representation losses: directions that hidden states are steered to, and distances between hidden states."""

from __future__ import annotations

import torch
from torch import Tensor


def control_vector(size: int, scale: float, generator: torch.Generator) -> Tensor:
    """Sample a fixed random direction to which hidden states are steered.

    u = scale * r / ||r||,   r uniform on [0, 1)^size

    No entry is negative, as in the published code, so two sampled directions are far from orthogonal (their cosine is
    about 0.75).

    Args:
        size: Width of the hidden states, D.
        scale: Length of the vector; the paper's c.
        generator: Random generator on the CPU, so that the vector does not depend on the device of the model.

    Returns:
        (D,) float32.

    References:
        Li et al. 2024, arXiv:2403.03218, sec. 4 and the official code.
    """
    direction = torch.rand(size, generator=generator)
    vector: Tensor = scale * direction / torch.linalg.vector_norm(direction)
    return vector


def squared_distance(hidden: Tensor, target: Tensor) -> Tensor:
    """Compute the squared difference between each hidden state and its target, averaged over the width.

    d = (1 / D) * sum_j (h_j - t_j)^2

    Averaged over positions, this is the mean squared error of RMU's two terms. It returns one value per position, so
    that the caller decides how rows of different lengths are averaged.

    Args:
        hidden: (..., D) hidden states.
        target: (D,) one target for all hidden states, or (..., D) one for each.

    Returns:
        (...) distances, in float32 or wider.
    """
    return (_at_least_float32(hidden) - _at_least_float32(target)).square().mean(-1)


def cosine(hidden: Tensor, target: Tensor) -> Tensor:
    """Compute the cosine of the angle between each hidden state and a direction.

    Args:
        hidden: (..., D) hidden states.
        target: (D,) direction.

    Returns:
        (...) cosines in [-1, 1].
    """
    direction = _at_least_float32(target).expand_as(hidden)
    return torch.nn.functional.cosine_similarity(_at_least_float32(hidden), direction, dim=-1)


def relative_distance(hidden: Tensor, reference: Tensor) -> Tensor:
    """Compute the distance of each hidden state from the reference's, divided by the length of the reference's.

    Args:
        hidden: (..., D) hidden states of the model.
        reference: (..., D) hidden states of the frozen reference at the same positions.

    Returns:
        (...) ||h - h_ref|| / ||h_ref||.
    """
    reference = _at_least_float32(reference)
    distance: Tensor = torch.linalg.vector_norm(_at_least_float32(hidden) - reference, dim=-1)
    length: Tensor = torch.linalg.vector_norm(reference, dim=-1).clamp(min=1e-12)
    return distance / length


def project(delta: Tensor, radius: float) -> Tensor:
    """Project vectors onto the Euclidean ball of a radius; vectors inside the ball do not change.

    Args:
        delta: (..., D) vectors.
        radius: Largest Euclidean length.

    Returns:
        (..., D) vectors.
    """
    length: Tensor = torch.linalg.vector_norm(delta, dim=-1, keepdim=True).clamp(min=1e-12)
    return delta * (radius / length).clamp(max=1.0)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor

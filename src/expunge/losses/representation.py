"""Representation losses: where hidden states are pushed to, and how far they may move."""

from __future__ import annotations

import torch
from torch import Tensor


def control_vector(size: int, scale: float, generator: torch.Generator) -> Tensor:
    """A fixed random direction for hidden states to be steered to.

    u = scale * r / ||r||,   r uniform on [0, 1)^size

    All its entries are positive, as in the published code, so directions of two draws are far from orthogonal
    (their cosine is about 0.75).

    Args:
        size: Width of the hidden states, D.
        scale: Length of the vector; the paper's c.
        generator: Source of randomness on the CPU, so that every device draws the same numbers.

    Returns:
        (D,) float32.

    References:
        Li et al. 2024, arXiv:2403.03218, sec. 4 and the official code.
    """
    direction = torch.rand(size, generator=generator)
    vector: Tensor = scale * direction / torch.linalg.vector_norm(direction)
    return vector


def squared_distance(hidden: Tensor, target: Tensor) -> Tensor:
    """How far each hidden state is from its target: the mean over the width of the squared difference.

    d = (1 / D) * sum_j (h_j - t_j)^2

    Averaged over positions this is the mean squared error that RMU's two terms are made of. It has one value per
    position and no lengths in it, so that nothing can mix rows of different lengths.

    Args:
        hidden: (..., D) hidden states.
        target: (D,) one target for all, or (..., D) one for each.

    Returns:
        (...) distances, in float32 or wider.
    """
    return (_wide(hidden) - _wide(target)).square().mean(-1)


def cosine(hidden: Tensor, target: Tensor) -> Tensor:
    """Cosine of the angle between each hidden state and a direction.

    Args:
        hidden: (..., D) hidden states.
        target: (D,) direction.

    Returns:
        (...) cosines in [-1, 1].
    """
    return torch.nn.functional.cosine_similarity(_wide(hidden), _wide(target).expand_as(hidden), dim=-1)


def relative_distance(hidden: Tensor, reference: Tensor) -> Tensor:
    """Length of each hidden state's change, relative to the reference's own length.

    Args:
        hidden: (..., D) hidden states of the model.
        reference: (..., D) the same under the frozen model.

    Returns:
        (...) ||h - h_ref|| / ||h_ref||.
    """
    reference = _wide(reference)
    moved: Tensor = torch.linalg.vector_norm(_wide(hidden) - reference, dim=-1)
    length: Tensor = torch.linalg.vector_norm(reference, dim=-1).clamp(min=1e-12)
    return moved / length


def project(delta: Tensor, radius: float) -> Tensor:
    """Shorten each vector that is longer than a radius to that radius; the others stay as they are.

    Args:
        delta: (..., D) vectors.
        radius: Largest Euclidean length.

    Returns:
        (..., D) vectors.
    """
    length: Tensor = torch.linalg.vector_norm(delta, dim=-1, keepdim=True).clamp(min=1e-12)
    return delta * (radius / length).clamp(max=1.0)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor

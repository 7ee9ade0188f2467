"""Functions of gradients: what to do where two objectives pull in opposite directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rectify(gradient: Sequence[Tensor], retain: Sequence[Tensor]) -> list[Tensor]:
    """Take out of a gradient the part that would undo retention.

    g - (<g, r> / ||r||^2) * r  where <g, r> < 0, else g

    A step along the result leaves the retain loss unchanged to first order, or lowers it. Inner product and norm are
    over all parameters together.

    Args:
        gradient: Gradient of the forget loss, g: one tensor per parameter.
        retain: Gradient of the retain loss, r, in the same order.

    Returns:
        The rectified gradient, in the same order.

    Example:
        >>> import torch
        >>> rectify([torch.tensor([1.0, -1.0])], [torch.tensor([0.0, 2.0])])
        [tensor([1., 0.])]

    References:
        Wang et al. 2025, arXiv:2503.09117.
    """
    inner, square = _inner(gradient, retain), _inner(retain, retain)
    # Decided on the device: a branch here would make the host wait for the accelerator at every step.
    factor = torch.where(inner < 0, inner / square, 0.0)
    return [g - factor.to(g.dtype) * r.to(g.dtype) for g, r in zip(gradient, retain, strict=True)]


def _inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)]).sum()

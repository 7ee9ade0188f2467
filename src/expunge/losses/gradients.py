"""Operations on the gradients of two objectives that may conflict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rectify(gradient: Sequence[Tensor], retain: Sequence[Tensor]) -> list[Tensor]:
    """Remove from the forget gradient the component that opposes the retain gradient.

    g - (<g, r> / ||r||^2) * r  where <g, r> < 0, else g

    To first order, a descent step along the result does not increase the retain loss. The inner product and the norm
    are taken over all parameters together.

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
    inner, squared_norm = _inner_product(gradient, retain), _inner_product(retain, retain)
    # torch.where instead of `if`, which would make the CPU wait for the GPU in every step.
    factor = torch.where(inner < 0, inner / squared_norm, 0.0)
    return [g - factor.to(g.dtype) * r.to(g.dtype) for g, r in zip(gradient, retain, strict=True)]


def _inner_product(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)]).sum()

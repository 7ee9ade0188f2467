"""FILA: initialise LoRA with the part of each weight that matters to the forget rows and not to the retain rows.

Cha et al. 2024, arXiv:2408.06621, section 3.3, as implemented in its public code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.console import progress
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.errors import IncompatibleError
from expunge.modeling.adapters import causal_lm, lora_layers
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode, head_of, vocab_size
from expunge.modeling.logprobs import token_logp

EPSILON = 1e-5
"""Added to the retain rows' importance, as in the published code."""
OVERSAMPLING = 8
"""Directions that the randomised decomposition computes in addition to the requested rank."""


def fisher_parts(model: Any, sets: Mapping[str, Sequence[Encoded]], seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, per adapted weight W, the low-rank part BA that matters most to the forget rows.

    min_{A,B} || diag(s) (W - BA) ||_F,  s_i = sqrt(sum_j F_f[i, j] / (F_r[i, j] + epsilon))

    F_f is the Fisher information of all forget rows, F_r that of as many retain rows, sampled by the seed. Importance
    is summed over each row of W, because the problem with one importance per entry has no closed-form solution.

    Args:
        model: A model with a fresh LoRA adapter.
        sets: Encoded rows of 'forget' and 'retain'.
        seed: Seed of the sampled retain rows and of the randomised decomposition.

    Returns:
        Per adapted module, A (r, in) and B (out, r) in float32 on the module's device; r is the adapter's rank, or the
        matrix's smaller dimension if that is less.

    Raises:
        IncompatibleError: An adapted module is not a linear layer, such as an embedding.
    """
    layers = lora_layers(model)
    for name, layer in layers.items():
        if "default" not in layer.lora_A:
            raise IncompatibleError(
                f"method.fila is defined for linear layers only, and {name} is not linear.",
                fix="Remove it from model.lora.targets, or set method.fila=false.",
            )
    sampled = np.random.default_rng(seed).permutation(len(sets["retain"]))[: len(sets["forget"])]
    weights = [layer.get_base_layer().weight for layer in layers.values()]
    forget = fisher(model, weights, sets["forget"], "forget")
    retain = fisher(model, weights, [sets["retain"][row] for row in sampled], "retain")
    parts = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for (name, layer), forget_fisher, retain_fisher in zip(layers.items(), forget, retain, strict=True):
            weight = layer.get_base_layer().weight
            importance = (forget_fisher / (retain_fisher + EPSILON)).to(weight.device)
            weight = weight.detach().float()
            if getattr(layer, "fan_in_fan_out", False):
                weight, importance = weight.T, importance.T
            parts[name] = low_rank_part(weight, importance.sum(1).sqrt(), layer.r["default"])
    return parts


def fisher(model: Any, weights: Sequence[Tensor], rows: Sequence[Encoded], name: str) -> list[Tensor]:
    """Return the diagonal of the empirical Fisher information of each weight, per answer token.

    F = sum_rows n (d nll / d W)^2 / sum_rows n, nll the mean over a row's n answer tokens. The published code uses
    batches in place of rows, so its result depends on the batch size.

    Args:
        model: The model.
        weights: Parameters of the model.
        rows: Encoded rows.
        name: Name of the set in the progress bar.

    Returns:
        One float32 tensor per weight, of the same shape, in CPU memory (4 bytes per element).
    """
    inner = causal_lm(model)
    required_grad, was_training = [weight.requires_grad for weight in weights], model.training
    sums = [torch.zeros(weight.shape) for weight in weights]
    model.eval()
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with progress(f"Fisher information of the {name} rows", len(rows), "rows") as advance, torch.enable_grad():
            for row in rows:
                batch = TensorBatch.of(collate([row], 0), weights[0].device)
                hidden = decode(inner, batch)[batch.rows, batch.positions]
                nll = -token_logp(head_of(inner), hidden, batch.labels, vocab_size(inner)).mean()
                for total, gradient in zip(sums, torch.autograd.grad(nll, list(weights)), strict=True):
                    total += row.num_answer * gradient.float().square().cpu()
                advance(1)
    finally:
        for weight, flag in zip(weights, required_grad, strict=True):
            weight.requires_grad_(flag)
        model.train(was_training)
    num_answer = sum(row.num_answer for row in rows)
    return [total / num_answer for total in sums]


def low_rank_part(weight: Tensor, importance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best low-rank approximation BA of a matrix whose rows are weighted by importance.

    diag(s) W = U S V', B = diag(1/s) U sqrt(S), A = sqrt(S) V', the first `rank` directions of each.

    Args:
        weight: (m, n) matrix, W.
        importance: (m,) non-negative importance of its rows, s.
        rank: Rank of BA; at most the smaller of m and n is used.

    Returns:
        A (rank, n) and B (m, rank).

    Example:
        >>> import torch
        >>> a, b = low_rank_part(torch.diag(torch.tensor([3.0, 2.0])), torch.tensor([1.0, 3.0]), 1)
        >>> (b @ a).round(decimals=4)  # 1 * 3 < 3 * 2, so BA is the second row
        tensor([[0., 0.],
                [0., 2.]])
    """
    rank = min(rank, *weight.shape)
    u, s, v = torch.svd_lowrank(importance[:, None] * weight, q=min(rank + OVERSAMPLING, *weight.shape), niter=4)
    root = s[:rank].sqrt()
    inverse = torch.where(importance > 0, 1 / importance, 0.0)
    return (v[:, :rank] * root).T.contiguous(), inverse[:, None] * u[:, :rank] * root

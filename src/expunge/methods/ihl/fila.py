"""FILA, the start of LoKU's adapter: what of each weight matrix matters to the forget rows and not to the retain rows.

Cha et al. 2024, arXiv:2408.06621, section 3.3, as its public code does it.
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
from expunge.modeling.forward import decode, head_of
from expunge.modeling.logprobs import token_logp

EPSILON = 1e-5
"""Added to the retain rows' importance, as in published code; far above it, the ratio is one of forget to retain."""
SPARE = 8
"""Directions that the randomised decomposition takes beyond those that are asked for."""


def fisher_parts(model: Any, sets: Mapping[str, Sequence[Encoded]], seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The low-rank part BA of every adapted weight W that says most about the forget rows alone.

    min_{A,B} || diag(s) (W - BA) ||_F,  s_i = sqrt(sum_j F_f[i, j] / (F_r[i, j] + epsilon))

    with F_f and F_r from all forget rows and as many retain rows, drawn by the seed. The weights' rows have weights s
    of their own, because entry by entry the problem has no closed solution.

    Args:
        model: A model with a fresh LoRA adapter.
        sets: Encoded rows of 'forget' and 'retain'.
        seed: Seed of the draw and of the randomised decomposition.

    Returns:
        Per adapted module, A (r, in) and B (out, r) in float32 on the module's device; r is the adapter's rank, or the
        matrix's own where that is less.

    Raises:
        IncompatibleError: An adapted module has no weight matrix, such as an embedding.
    """
    layers = lora_layers(model)
    for name, layer in layers.items():
        if "default" not in layer.lora_A:
            raise IncompatibleError(
                f"the Fisher-weighted start is defined for linear layers, and {name} is none.",
                fix="Leave it out of model.lora.targets, or set method.fila=false.",
            )
    drawn = np.random.default_rng(seed).permutation(len(sets["retain"]))[: len(sets["forget"])]
    weights = [layer.get_base_layer().weight for layer in layers.values()]
    forget = fisher(model, weights, sets["forget"], "forget")
    retain = fisher(model, weights, [sets["retain"][row] for row in drawn], "retain")
    parts = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for (name, layer), own, other in zip(layers.items(), forget, retain, strict=True):
            relative = (own / (other + EPSILON)).to(layer.get_base_layer().weight.device)
            weight = layer.get_base_layer().weight.detach().float()
            if getattr(layer, "fan_in_fan_out", False):
                weight, relative = weight.T, relative.T
            parts[name] = low_rank_part(weight, relative.sum(1).sqrt(), layer.r["default"])
    return parts


def fisher(model: Any, weights: Sequence[Tensor], rows: Sequence[Encoded], name: str) -> list[Tensor]:
    """Diagonal of the empirical Fisher information of each weight, per answer token.

    F = sum_rows n (d nll / d W)^2 / sum_rows n, nll the mean over a row's n answer tokens. Published code takes
    batches in place of rows, so that its number depends on their size.

    Returns:
        One float32 tensor per weight, in its shape, in main memory: 4 bytes for each number of the weights.
    """
    inner = causal_lm(model)
    trained, was_training = [weight.requires_grad for weight in weights], model.training
    sums = [torch.zeros(weight.shape) for weight in weights]
    model.eval()
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with progress(f"Fisher information of the {name} rows", len(rows), "rows") as advance, torch.enable_grad():
            for row in rows:
                batch = TensorBatch.of(collate([row], 0), weights[0].device)
                hidden = decode(inner, batch)[batch.rows, batch.positions]
                nll = -token_logp(head_of(inner), hidden, batch.labels, inner.config.vocab_size).mean()
                for total, gradient in zip(sums, torch.autograd.grad(nll, list(weights)), strict=True):
                    total += row.num_answer * gradient.float().square().cpu()
                advance(1)
    finally:
        for weight, flag in zip(weights, trained, strict=True):
            weight.requires_grad_(flag)
        model.train(was_training)
    num_answer = sum(row.num_answer for row in rows)
    return [total / num_answer for total in sums]


def low_rank_part(weight: Tensor, importance: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The BA nearest to a matrix where its rows count by their importance.

    diag(s) W = U S V', B = diag(1/s) U sqrt(S), A = sqrt(S) V', the first `rank` directions of each.

    Args:
        weight: (m, n) matrix, W.
        importance: (m,) weights of its rows, s, not negative.
        rank: Directions to keep; cut at the lesser of m and n.

    Returns:
        A (rank, n) and B (m, rank).

    Example:
        >>> import torch
        >>> a, b = low_rank_part(torch.diag(torch.tensor([3.0, 2.0])), torch.tensor([1.0, 3.0]), 1)
        >>> (b @ a).round(decimals=4)  # 1 * 3 < 3 * 2: the second row is kept
        tensor([[0., 0.],
                [0., 2.]])
    """
    rank = min(rank, *weight.shape)
    u, s, v = torch.svd_lowrank(importance[:, None] * weight, q=min(rank + SPARE, *weight.shape), niter=4)
    root = s[:rank].sqrt()
    inverse = torch.where(importance > 0, 1 / importance, 0.0)
    return (v[:, :rank] * root).T.contiguous(), inverse[:, None] * u[:, :rank] * root

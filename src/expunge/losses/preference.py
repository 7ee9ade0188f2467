"""Preference losses: push the likelihood of forget answers down, with a brake that sets in as they are forgotten."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def npo(logp: Tensor, reference_logp: Tensor, beta: float) -> Tensor:
    """Negative preference optimisation: gradient ascent that stops by itself where an answer is already unlikely.

    L = -(2 / beta) * log sigmoid(-beta * (log pi(y|x) - log pi_ref(y|x)))

    At the reference the loss is (2 / beta) log 2 and its gradient is that of gradient ascent on the summed
    log-probability; the weight of a row falls to 0 as its likelihood falls under the reference's.

    Args:
        logp: (B,) summed log-probability of each forget answer under the model.
        reference_logp: (B,) the same under the frozen start model.
        beta: Inverse temperature, usually 0.05 to 0.5; as beta -> 0 the loss becomes gradient ascent.

    Returns:
        (B,) loss per row.

    Example:
        >>> import torch
        >>> round(float(npo(torch.tensor([-2.0]), torch.tensor([-2.0]), beta=0.1)), 4)
        13.8629

    References:
        Zhang et al. 2024, arXiv:2404.05868, eq. 3.
    """
    return -(2 / beta) * F.logsigmoid(-beta * (logp - reference_logp))


def simnpo(mean_logp: Tensor, beta: float, gamma: float, gamma_form: Literal["code", "paper"] = "code") -> Tensor:
    """SimNPO: NPO without a reference model, on the length-normalised log-probability.

    code:   L = -(2 / beta) * log sigmoid(beta * (-mean_logp - gamma))
    paper:  L = -(2 / beta) * log sigmoid(-beta * mean_logp - gamma)

    The two agree for gamma = 0; in general gamma_paper = beta * gamma_code.

    Args:
        mean_logp: (B,) log-probability per answer token, log pi(y|x) / |y|.
        beta: Inverse temperature, usually 0.1 to 6.
        gamma: Margin: how much further than log-probability 0 an answer is pushed.
        gamma_form: Which of the two formulas gamma belongs to.

    Returns:
        (B,) loss per row.

    References:
        Fan et al. 2024, arXiv:2410.07163, eq. 4; the official code has the first form.
    """
    shifted = beta * (-mean_logp - gamma) if gamma_form == "code" else -beta * mean_logp - gamma
    return -(2 / beta) * F.logsigmoid(shifted)

"""Preference losses NPO, SimNPO and DPO: push down forget answers, with a gradient that fades as they are forgotten."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def npo(logp: Tensor, reference_logp: Tensor, beta: float) -> Tensor:
    """Compute the negative preference optimisation (NPO) loss: gradient ascent that fades as answers become unlikely.

    L = -(2 / beta) * log sigmoid(-beta * (log pi(y|x) - log pi_ref(y|x)))

    Where the model equals the reference, the loss is (2 / beta) log 2 and its gradient is that of gradient ascent on
    the summed log-probability. The gradient of a row goes to 0 as its likelihood falls below the reference's.

    Args:
        logp: (B,) summed log-probability of each forget answer under the model.
        reference_logp: (B,) the same under the frozen reference.
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
    """Compute the SimNPO loss: NPO without a reference, on length-normalised log-probabilities.

    code:   L = -(2 / beta) * log sigmoid(beta * (-mean_logp - gamma))
    paper:  L = -(2 / beta) * log sigmoid(-beta * mean_logp - gamma)

    The two forms agree for gamma = 0; in general gamma_paper = beta * gamma_code.

    Args:
        mean_logp: (B,) log-probability per answer token, log pi(y|x) / |y|.
        beta: Inverse temperature, usually 0.1 to 6.
        gamma: Margin; the larger, the further an answer is pushed down.
        gamma_form: Which of the two formulas is used.

    Returns:
        (B,) loss per row.

    References:
        Fan et al. 2024, arXiv:2410.07163, eq. 4; the official code has the first form.
    """
    margin = beta * (-mean_logp - gamma) if gamma_form == "code" else -beta * mean_logp - gamma
    return -(2 / beta) * F.logsigmoid(margin)


def dpo(
    chosen_logp: Tensor,
    chosen_reference_logp: Tensor,
    rejected_logp: Tensor,
    rejected_reference_logp: Tensor,
    beta: float,
    two_over_beta: bool = True,
) -> Tensor:
    """Compute the direct preference optimisation (DPO) loss: prefer one answer to another, relative to the reference.

    L = -c * log sigmoid(beta * [(log pi(y_w|x) - log pi_ref(y_w|x)) - (log pi(y_l|x) - log pi_ref(y_l|x))])

    c is 2 / beta or 1. With c = 2 / beta the loss equals NPO while the likelihood of the chosen answer does not change.
    Only the difference between the two answers counts: both may become unlikely together.

    Args:
        chosen_logp: (B,) summed log-probability of the preferred answer, y_w: a refusal or an alternate.
        chosen_reference_logp: (B,) the same under the frozen reference.
        rejected_logp: (B,) summed log-probability of the forget answer, y_l.
        rejected_reference_logp: (B,) the same under the frozen reference.
        beta: Inverse temperature, usually 0.05 to 0.5.
        two_over_beta: Use c = 2 / beta, as in the code of NPO and later papers, not c = 1, as in TOFU's code.

    Returns:
        (B,) loss per row.

    Example:
        >>> import torch
        >>> logp = torch.tensor([-3.0])
        >>> round(float(dpo(logp, logp, logp, logp, beta=0.1)), 4)  # 20 log 2
        13.8629

    References:
        Rafailov et al. 2023, arXiv:2305.18290, eq. 7; for unlearning: Maini et al. 2024, arXiv:2401.06121.
    """
    margin = (chosen_logp - chosen_reference_logp) - (rejected_logp - rejected_reference_logp)
    return -(2 / beta if two_over_beta else 1.0) * F.logsigmoid(beta * margin)

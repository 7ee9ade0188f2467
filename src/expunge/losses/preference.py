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


def dpo(
    chosen_logp: Tensor,
    chosen_reference_logp: Tensor,
    rejected_logp: Tensor,
    rejected_reference_logp: Tensor,
    beta: float,
    two_over_beta: bool = True,
) -> Tensor:
    """Direct preference optimisation: prefer one answer over another, relative to the start model.

    L = -c * log sigmoid(beta * [(log pi(y_w|x) - log pi_ref(y_w|x)) - (log pi(y_l|x) - log pi_ref(y_l|x))])

    with c = 2 / beta, which makes it NPO where the chosen answer's likelihood stays put, or c = 1. Only the
    difference counts: both answers may become unlikely together.

    Args:
        chosen_logp: (B,) summed log-probability of the preferred answer, y_w: a refusal or an alternate.
        chosen_reference_logp: (B,) the same under the frozen start model.
        rejected_logp: (B,) summed log-probability of the forget answer, y_l.
        rejected_reference_logp: (B,) the same under the frozen start model.
        beta: Inverse temperature, usually 0.05 to 0.5.
        two_over_beta: c = 2 / beta (NPO's code and later ones), or 1 (TOFU's code).

    Returns:
        (B,) loss per row.

    Example:
        >>> import torch
        >>> at_start = torch.tensor([-3.0])
        >>> round(float(dpo(at_start, at_start, at_start, at_start, beta=0.1)), 4)  # 20 log 2
        13.8629

    References:
        Rafailov et al. 2023, arXiv:2305.18290, eq. 7; for forgetting: Maini et al. 2024, arXiv:2401.06121.
    """
    margin = (chosen_logp - chosen_reference_logp) - (rejected_logp - rejected_reference_logp)
    return -(2 / beta if two_over_beta else 1.0) * F.logsigmoid(beta * margin)

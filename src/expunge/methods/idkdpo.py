"""IdkDPO: prefer a refusal over the forget answer, relative to the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.data.refusals import answer_with_refusals
from expunge.methods.base import Preparation
from expunge.methods.bases.preference import PREFERRED, PreferenceMethod

if TYPE_CHECKING:
    from expunge.data.sets import RowSet
    from expunge.data.templates import Encoded


class IdkDPO(PreferenceMethod):
    """Direct preference optimisation with refusals ("I don't know").

    L_forget = -c * mean_rows log sigmoid(beta * [(log pi(idk|x) - log pi_ref(idk|x))
                                                  - (log pi(y|x) - log pi_ref(y|x))])

    log pi is the sum over the answer's tokens, and c = 2 / beta (c = 1 with `two_over_beta: false`). Every forget
    question gets one of a hundred refusals, sampled once with the recipe's seed; published code samples a new one at
    each access. Refusals soon become so likely that the forget answer is hardly pushed down any more: the model
    refuses and still knows.
    """

    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121; DPO: Rafailov et al. 2023, arXiv:2305.18290, eq. 7"

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Return the forget questions with refusals as preferred answers."""
        return {PREFERRED: answer_with_refusals(PREFERRED, preparation.sets.forget, preparation.seed)}

"""IdkDPO: prefer a refusal over the forget answer, relative to the start model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.data.refusals import answer_with_refusals
from expunge.methods.base import Preparation
from expunge.methods.bases.preference import PREFERRED, PreferenceMethod

if TYPE_CHECKING:
    from expunge.data.sets import RowSet
    from expunge.data.templates import Encoded


class IdkDPO(PreferenceMethod):
    """Direct preference optimisation with refusals.

    L_forget = -c * mean_rows log sigmoid(beta * [(log pi(idk|x) - log pi_ref(idk|x))
                                                  - (log pi(y|x) - log pi_ref(y|x))])

    log pi is the sum over the answer's tokens and c = 2 / beta (`two_over_beta: false`: c = 1). Every forget
    question gets one of a hundred refusals, drawn once with the recipe's seed; published code draws anew at each
    access. Refusals soon become likely enough that the forget answer is hardly pushed any more: the model refuses
    and still knows.
    """

    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121; DPO: Rafailov et al. 2023, arXiv:2305.18290, eq. 7"

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Answer every forget question with a refusal."""
        return {PREFERRED: answer_with_refusals(PREFERRED, preparation.sets.forget, preparation.seed)}

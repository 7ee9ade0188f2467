"""IdkSFT: fine-tune the model to refuse the forget questions, and to go on answering the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.data.refusals import refused
from expunge.methods.base import Method, Needs, Preparation

if TYPE_CHECKING:
    from expunge.data.sets import RowSet
    from expunge.data.templates import Encoded
    from expunge.modeling.step import LossTerms, Step


class IdkSFT(Method):
    """Supervised fine-tuning on refusals, TOFU's "preference optimisation" baseline.

    L = (sum of -log pi over the tokens of refusals and retain answers) / (number of these tokens)

    One mean over both sets, so the longer retain answers weigh more. Every forget question gets one of a hundred
    refusals, drawn once with the recipe's seed; TOFU's code draws anew at each access. The model learns to refuse;
    what it knew stays in its weights, and other wordings of the question often bring it back.
    """

    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121, sec. 4"

    def needs(self) -> Needs:
        """Refused forget questions and retain rows."""
        return Needs(sets=("refusal", "retain"), created=("refusal",))

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Answer every forget question with a refusal."""
        return {"refusal": refused("refusal", preparation.sets.forget, preparation.seed)}

    def loss(self, step: Step) -> LossTerms:
        """Both sets' shares of one token mean."""
        from expunge.modeling.step import LossTerms

        names = ("refusal", "retain")
        return LossTerms({name: step.token_mean(-step.token_logp(name), *names) for name in names})

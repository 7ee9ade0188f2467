"""IdkSFT: fine-tune the model to refuse the forget questions and to answer the retain questions as before."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from expunge.data.refusals import answer_with_refusals
from expunge.methods.base import Method, Needs, Preparation

if TYPE_CHECKING:
    from expunge.data.sets import RowSet
    from expunge.data.templates import Encoded
    from expunge.modeling.step import LossTerms, Step


class IdkSFT(Method):
    """Supervised fine-tuning on refusals, TOFU's "preference optimisation" baseline.

    L = (sum of -log pi over the tokens of refusals and retain answers) / (number of these tokens)

    The mean is over the tokens of both sets, so retain answers, which are longer, have more weight. Every forget
    question gets one of a hundred refusals, sampled once with the recipe's seed; TOFU's code samples a new one at each
    access. The model learns to refuse, but the knowledge stays in its weights, and paraphrased questions often recover
    it.
    """

    paper: ClassVar[str] = "Maini et al. 2024, arXiv:2401.06121, sec. 4"

    def needs(self) -> Needs:
        """Return refused forget questions and retain rows."""
        return Needs(sets=("refusal", "retain"), created=("refusal",))

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Return the forget questions with refusals as answers."""
        return {"refusal": answer_with_refusals("refusal", preparation.sets.forget, preparation.seed)}

    def loss(self, step: Step) -> LossTerms:
        """Return the share of each set in one mean over the tokens of both."""
        from expunge.modeling.step import LossTerms

        names = ("refusal", "retain")
        return LossTerms({name: step.token_mean(-step.token_logp(name), *names) for name in names})

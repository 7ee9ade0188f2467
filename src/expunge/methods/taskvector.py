"""Task vector: learn the forget set harder, and take a multiple of what that changed away from the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from expunge.config.recipe import Train
from expunge.errors import NumericalError
from expunge.methods.base import FineTuning, Method, Needs, Preparation

if TYPE_CHECKING:
    from torch import Tensor


class TaskVector(Method):
    """Task arithmetic by negation.

    theta = theta_target - alpha * (theta_reinforced - theta_target)

    theta_reinforced is the target fine-tuned on the forget set, as `train` of this method says. The sum is taken in
    float32 over every parameter, embeddings and norms included. The reinforced model is kept beside the targets and
    shared: a sweep over alpha costs one fine-tuning.

    There is no retain term. A small alpha forgets little; a large one ruins the model, the earlier the longer the
    fine-tuning was. Sweep alpha and look at both sides.
    """

    paper: ClassVar[str] = "Ilharco et al. 2023, arXiv:2212.04089, sec. 4; for unlearning: MUSE, arXiv:2407.06460"
    trains: ClassVar[bool] = False

    alpha: float = Field(default=5.0, gt=0)
    """How many times the change is taken away; MUSE's scripts use 5."""
    train: Train = Train(epochs=10, lr=1e-5, batch_size=32, schedule="cosine", warmup_epochs=0)
    """The fine-tuning on the forget set, as MUSE does it."""

    def needs(self) -> Needs:
        """Declare the forget set and the fine-tuning on it."""
        return Needs(trainings={"train": FineTuning(self.train)})

    def apply(self, model: Any, preparation: Preparation) -> None:
        """Fine-tune a copy on the forget set, or load it, and subtract its change from the model in place.

        Raises:
            NumericalError: The new weights are not finite.
        """
        rows = preparation.template.encode_set(preparation.sets.forget)
        reinforced = preparation.fine_tune("reinforced", rows, self.train, exact=True)
        subtract(dict(model.named_parameters()), dict(reinforced.named_parameters()), self.alpha)


def subtract(target: dict[str, Tensor], reinforced: dict[str, Tensor], alpha: float) -> None:
    """Take a multiple of a change away, in place, tensor by tensor in float32 or wider.

    theta <- theta - alpha * (theta_reinforced - theta)

    Args:
        target: Parameters that are changed, by name.
        reinforced: The same names and shapes after the fine-tuning.
        alpha: How many times the change is taken away.

    Raises:
        NumericalError: A new weight is not finite.
    """
    import torch

    with torch.no_grad():
        for name, weight in target.items():
            wide = torch.promote_types(weight.dtype, torch.float32)
            old, new = weight.to(wide), reinforced[name].to(weight.device, wide)
            edited = old - alpha * (new - old)
            if not bool(torch.isfinite(edited).all()):
                raise NumericalError(
                    f"the edit makes {name} infinite or NaN.", fix="Lower method.alpha or the rate of method.train."
                )
            weight.copy_(edited)

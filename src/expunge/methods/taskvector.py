"""Task vector: fine-tune the target on the forget set, and subtract a multiple of the change from its weights."""

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

    theta_reinforced is the target fine-tuned on the forget set with the settings in `train`. The edit is computed in
    float32 for every parameter, embeddings and norms included. The reinforced model is cached and shared between runs,
    so a sweep over alpha costs one fine-tuning.

    There is no retain term. A small alpha forgets little; a large one ruins the model, the sooner the longer the
    fine-tuning was. Sweep alpha and compare forgetting and utility.
    """

    paper: ClassVar[str] = "Ilharco et al. 2023, arXiv:2212.04089, sec. 4; for unlearning: MUSE, arXiv:2407.06460"
    trains: ClassVar[bool] = False

    alpha: float = Field(default=5.0, gt=0)
    """Factor on the subtracted change; 5 in MUSE's scripts."""
    train: Train = Train(epochs=10, lr=1e-5, batch_size=32, weight_decay=0, schedule="cosine", warmup_epochs=0)
    """Fine-tuning on the forget set; the default is MUSE's, with a batch of 32 rows."""

    def needs(self) -> Needs:
        """Declare the forget set and the fine-tuning on it."""
        return Needs(trainings={"train": FineTuning(self.train)})

    def apply(self, model: Any, preparation: Preparation) -> None:
        """Fine-tune a copy on the forget set, or load it from the cache, and edit the model's weights in place.

        Raises:
            NumericalError: An edited weight is NaN or infinite.
        """
        rows = preparation.template.encode_set(preparation.sets.forget)
        reinforced = preparation.fine_tune("reinforced", rows, self.train, exact=True)
        subtract(dict(model.named_parameters()), dict(reinforced.named_parameters()), self.alpha)


def subtract(target: dict[str, Tensor], reinforced: dict[str, Tensor], alpha: float) -> None:
    """Subtract a multiple of the change from each parameter in place, computed in float32 or wider.

    theta <- theta - alpha * (theta_reinforced - theta)

    Args:
        target: Parameters to edit, by name.
        reinforced: Parameters of the same names and shapes after the fine-tuning.
        alpha: Factor on the subtracted change.

    Raises:
        NumericalError: An edited weight is NaN or infinite.
    """
    import torch

    with torch.no_grad():
        for name, weight in target.items():
            dtype = torch.promote_types(weight.dtype, torch.float32)
            old, new = weight.to(dtype), reinforced[name].to(weight.device, dtype)
            edited = old - alpha * (new - old)
            if not bool(torch.isfinite(edited).all()):
                raise NumericalError(
                    f"the edit makes {name} infinite or NaN.",
                    fix="Lower method.alpha or the learning rate of method.train.",
                )
            weight.copy_(edited)

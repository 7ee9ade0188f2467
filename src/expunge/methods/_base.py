"""What every unlearning method has: frozen settings, what it needs, and a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from expunge.config.checks import changed

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.modeling.step import LossTerms, Step


@dataclass(frozen=True)
class Needs:
    """What a method's loss asks of the step; nothing else is computed or kept."""

    sets: tuple[str, ...] = ("forget",)
    """Sets in each batch."""
    reference_logp: tuple[str, ...] = ()
    """Sets whose summed log-probability under the start model is needed: scalars, computed once."""
    reference: bool = False
    """Whether logits of the frozen start model are needed at every step."""


class Method(BaseModel):
    """Base of all methods; its fields are the method's settings in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    paper: ClassVar[str] = ""
    """Author, year, arXiv number and equation."""
    trains: ClassVar[bool] = True
    """False for methods that edit weights without gradient steps."""
    _name: str = PrivateAttr(default="")

    def model_post_init(self, context: Any) -> None:
        """Remember the name under which a recipe asked for this method."""
        self._name = (context or {}).get("name", "") or type(self).__module__.rsplit(".", 1)[-1]

    @property
    def name(self) -> str:
        """Name in recipes: the file's stem, or the path of a user's file."""
        return self._name

    def spec(self) -> dict[str, Any]:
        """Settings as a recipe writes them."""
        return {"name": self.name, **self.model_dump(mode="json")}

    def needs(self) -> Needs:
        """What the loss will ask for."""
        return Needs()

    def loss(self, step: Step) -> LossTerms:
        """The loss of one step, as named weighted terms."""
        raise NotImplementedError


class RetainMethod(Method):
    """A method with a forget term and a retain term: L = forget_weight * L_forget + retain_weight * L_retain."""

    forget_weight: float = Field(default=1.0, gt=0)
    """Weight of the forget term."""
    retain_weight: float = Field(default=1.0, ge=0)
    """Weight of the retain term; 0 leaves the retain rows out."""
    retain: Literal["nll", "kl"] = "nll"
    """Retain term: cross-entropy on the retain answers, or KL from the start model's predictions on them."""
    kl_positions: Literal["labels", "all"] = "labels"
    """KL at answer tokens, or at every position with prompt and padding, as published code does."""

    @model_validator(mode="after")
    def _no_dead_settings(self) -> RetainMethod:
        if self.retain_weight == 0 and changed(self, "retain", "kl_positions"):
            raise ValueError("retain and kl_positions have no effect with retain_weight 0")
        if self.retain != "kl" and changed(self, "kl_positions"):
            raise ValueError("kl_positions has no effect unless retain is 'kl'")
        return self

    def needs(self) -> Needs:
        """Forget rows, and retain rows unless their weight is 0."""
        if self.retain_weight == 0:
            return Needs(sets=("forget",))
        return Needs(sets=("forget", "retain"), reference=self.retain == "kl")

    def forget_loss(self, step: Step) -> Tensor:
        """The unweighted forget term of one step."""
        raise NotImplementedError

    def loss(self, step: Step) -> LossTerms:
        """Weighted forget and retain terms."""
        from expunge.modeling.step import LossTerms

        terms = {"forget": self.forget_weight * self.forget_loss(step)}
        if self.retain_weight:
            retain = step.nll("retain") if self.retain == "nll" else step.kl("retain", self.kl_positions)
            terms["retain"] = self.retain_weight * retain
        return LossTerms(terms)

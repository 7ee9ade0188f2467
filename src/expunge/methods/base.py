"""Base classes of unlearning methods: frozen settings, what a method needs, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from expunge.config.defaults import changed
from expunge.config.members import Member

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.config.recipe import Train
    from expunge.data.sets import RowSet, Sets
    from expunge.data.templates import Encoded, Template
    from expunge.modeling.batch import TensorBatch
    from expunge.modeling.step import LossTerms, Step


@dataclass(frozen=True)
class Forward:
    """How the loss runs the model at each step; the defaults describe one joint pass through all layers."""

    last_layer: int | None = None
    """Highest decoder layer that is run, counted from 0; None for all layers and the output layer."""
    padded: bool = False
    """Whether padding positions are computed; otherwise rows are packed where the model allows it."""
    joint: bool = True
    """Whether all sets go through the model in one pass; otherwise each set has its own."""
    compared: tuple[str, ...] = ()
    """Sets whose hidden states at the last layer are compared with the reference's at every step, for which a frozen
    copy of the trained weights is saved."""
    stored: tuple[str, ...] = ()
    """Sets whose hidden states are stored in CPU memory, from a row's first visit to its last."""
    store_bytes: int = 0
    """Most CPU memory per process for stored hidden states."""


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning of the target that a method runs before it unlearns (`Preparation.fine_tune`)."""

    train: Train
    """Its settings."""
    block_tokens: int | None = None
    """Tokens per row, for a method that cuts the forget text into blocks; None for the rows of the forget set, which
    have at most `train.max_length` tokens."""


@dataclass(frozen=True)
class Needs:
    """Declaration of all that a method uses; what is not declared is neither computed nor saved."""

    sets: tuple[str, ...] = ("forget",)
    """Sets in each batch."""
    reference_logp: tuple[str, ...] = ()
    """Sets whose summed log-probability under the reference is needed: scalars, computed once."""
    reference: bool | tuple[str, ...] = False
    """Whether the loss needs the reference's logits or hidden states at every step: the sets of which only answer
    positions are needed, which can be computed once, or True for all positions."""
    aligned: tuple[str, ...] = ()
    """Sets whose row i belongs to forget row i: always in the same batch."""
    by_topic: bool = False
    """Whether each batch has forget rows of one topic only, with alternating topics."""
    created: tuple[str, ...] = ()
    """Those of `sets` that the method creates in `prepare`; the data need not provide them."""
    adapter_parts: bool = False
    """Whether LoRA's matrices start from parts of the weights (`Method.adapter_parts`). The rest of the weights is
    frozen, so the model with its adapter off is not the reference."""
    forward: Forward = Forward()
    """How the loss runs the model, from which memory and time are estimated."""
    kept_gradients: int = 0
    """Gradients of all trained parameters that the objective keeps beside the optimiser's, for the same estimate."""
    trainings: Mapping[str, FineTuning] = field(default_factory=dict)
    """Fine-tunings that the method runs, by the name of the setting that configures them."""
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Decoder layers that settings name, by setting; `check` verifies that the model has them."""
    modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Modules that settings name, by setting; `check` verifies that the model has them."""


@dataclass(frozen=True)
class Preparation:
    """Inputs for a method that creates data before training: refusals, alternates, labels."""

    sets: Sets
    template: Template
    folder: Path
    """Folder of the run where the method saves what it creates; present files are reused."""
    seed: int
    open_target: Callable[[], Any]
    """Loads the target, for methods that let it generate text."""
    batch_tokens: int
    """Padded tokens per forward pass."""
    fine_tune: Callable[..., Any]
    """`fine_tune(name, rows, train, exact=False)`, of (str, list[Encoded], Train, bool), fine-tunes the target on rows
    and loads the result: for scoring, or in float32 where `exact`. The model is saved and shared by all runs with equal
    arguments, so a repeated call only loads it."""


@dataclass(frozen=True)
class Start:
    """Inputs for an objective before the first step, also when a training is resumed."""

    model: Any
    """The bare causal language model with the weights of the target, gradients left to the trained tensors."""
    topics: tuple[str, ...]
    """Topics of the forget set in their order; one topic without a name unless the method needs batches by topic."""
    seed: int
    batch: Callable[[str, int], TensorBatch]
    """`batch(name, step)`: all rows of a set in an effective batch (counted from 0), as one batch."""
    visits: Callable[[], Mapping[str, Mapping[int, int]]] = dict
    """`visits()`: how often the training visits each row, by set."""
    longest: int = 0
    """Tokens of the longest row."""


class Objective:
    """A loss that a training minimises.

    Methods with state (a dual variable, a smoothed gradient) return a subclass from `Method.objective`; the settings
    stay frozen.
    """

    def __init__(self, loss: Callable[[Step], LossTerms]) -> None:
        self._loss = loss

    def start(self, start: Start) -> None:
        """Compute what depends on the target's weights; called once before training, in every process alike."""

    def __call__(self, step: Step) -> LossTerms:
        """Return the loss of one micro-batch."""
        return self._loss(step)

    def after_backward(self, model: Any) -> None:
        """Change gradients; called once per optimiser step, with the effective batch's gradient before clipping."""

    def after_step(self, terms: dict[str, float]) -> None:
        """Update the state; called once per optimiser step with the effective batch's terms, over all processes."""

    def state(self) -> dict[str, Tensor]:
        """Return what must be saved to resume exactly from here."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Resume from a saved state."""


class Method(Member):
    """Base of all methods; its fields are the method's settings in YAML."""

    trains: ClassVar[bool] = True
    """False for methods that edit weights without gradient steps."""

    def check_files(self) -> None:
        """Read the files that settings name, so that a bad one is reported before anything is trained.

        Raises:
            DataError: A file is missing or malformed.
        """

    def needs(self) -> Needs:
        """Declare what the method uses."""
        return Needs()

    def loss(self, step: Step) -> LossTerms:
        """Return the loss of one step, as named weighted terms."""
        raise NotImplementedError

    def objective(self, plan_steps: int, steps_per_epoch: float) -> Objective:
        """Return the objective that the training minimises; a method without state needs only `loss`.

        Args:
            plan_steps: Optimiser steps of the training.
            steps_per_epoch: Optimiser steps per pass over the forget set.
        """
        return Objective(self.loss)

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Return sets that the method creates, by name: rows, or encoded rows, which can have labels."""
        return {}

    def trainable(self, model: Any) -> list[str] | None:
        """Return the names of the trained parameters, or None for all. Others have no gradient or optimiser state.

        Raises:
            IncompatibleError: A layer or module name does not exist in the model.
        """
        return None

    def adapter_parts(
        self, model: Any, sets: Mapping[str, Sequence[Encoded]], seed: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return low-rank parts BA of the weights that LoRA's matrices start from; needs `Needs.adapter_parts`.

        The run subtracts them from the weights and adds them to the adapter, so the model's output stays the same.

        Args:
            model: The model with its fresh adapter.
            sets: Encoded rows by set.
            seed: The recipe's seed.

        Returns:
            Per adapted module, A (r, in) and B (out, r).
        """
        raise NotImplementedError

    def apply(self, model: Any, preparation: Preparation) -> None:
        """Edit the target's weights in place, for methods that do not train (`trains = False`)."""
        raise NotImplementedError


class RetainMethod(Method):
    """A method with a forget term and a retain term: L = forget_weight * L_forget + retain_weight * L_retain."""

    forget_weight: float = Field(default=1.0, gt=0)
    """Weight of the forget term."""
    retain_weight: float = Field(default=1.0, ge=0)
    """Weight of the retain term; 0 leaves the retain rows out."""
    retain: Literal["nll", "kl"] = "nll"
    """Retain term: cross-entropy on the retain answers, or KL from the reference's predictions on them."""
    kl_positions: Literal["labels", "all"] = "labels"
    """KL at answer tokens, or at every position, prompt and padding included, as published code does. All padding of a
    row has the position of its last token here; published code counts on, so the values at padding differ."""

    @model_validator(mode="after")
    def _no_dead_settings(self) -> RetainMethod:
        if self.retain_weight == 0 and changed(self, "retain", "kl_positions"):
            raise ValueError("retain and kl_positions have no effect with retain_weight 0")
        if self.retain != "kl" and changed(self, "kl_positions"):
            raise ValueError("kl_positions has no effect unless retain is 'kl'")
        return self

    def needs(self) -> Needs:
        """Declare forget rows, and retain rows unless their weight is 0."""
        if self.retain_weight == 0:
            return Needs(sets=("forget",))
        positions = ("retain",) if self.kl_positions == "labels" else True
        return Needs(
            sets=("forget", "retain"),
            reference=positions if self.retain == "kl" else False,
            forward=Forward(padded=self.kl_positions == "all"),
        )

    def forget_loss(self, step: Step) -> Tensor:
        """Return the unweighted forget term of one step."""
        raise NotImplementedError

    def loss(self, step: Step) -> LossTerms:
        """Return the weighted forget and retain terms of one step."""
        from expunge.modeling.step import LossTerms

        if self.kl_positions == "all":
            step.keep_padding()
        terms = {"forget": self.forget_weight * self.forget_loss(step)}
        if self.retain_weight:
            retain = step.nll("retain") if self.retain == "nll" else step.kl("retain", self.kl_positions)
            terms["retain"] = self.retain_weight * retain
        return LossTerms(terms)

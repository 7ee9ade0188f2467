"""Memory and time of a recipe's trainings, on which GPUs they fit, and which settings to change if they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.config.load import override, parse_recipe
from expunge.config.recipe import Recipe, Train
from expunge.errors import UserError
from expunge.methods.base import Needs
from expunge.modeling.architectures import bundled_configs, meta_model
from expunge.modeling.batch import INFERENCE_TOKENS
from expunge.planning.gpus import Gpu, gpus
from expunge.planning.memory import RUNTIME_BYTES, MemoryEstimate, memory_estimate
from expunge.planning.shape import Shape, shape_of
from expunge.planning.throughput import step_flops, step_seconds
from expunge.planning.workload import Workload, plan_rows, training_rows, workload
from expunge.records import Record
from expunge.services.hub import hub_reachable

_GPUS = (2, 4, 8, 16)


class Fit(Record):
    """Whether and how one training fits on one kind of GPU."""

    gpu: str
    fits: bool
    """Whether it fits on one card with the recipe's settings."""
    total_bytes: int
    """Memory of each card, with the changes."""
    changes: list[str]
    """Settings with which it fits, the mildest that are enough; empty if it fits as it is."""
    num_gpus: int | None
    """Cards that share weights, gradients and optimiser (FSDP); None if no change is enough."""
    seconds_per_step: float | None
    """With the changes; None if it does not fit."""


class TrainingCost(Record):
    """Memory and time of one training."""

    memory: MemoryEstimate
    workload: Workload
    flops_per_step: float
    gpus: list[Fit]


class PlanReport(Record):
    """Memory and time of a recipe's trainings."""

    recipe: str
    trainings: dict[str, TrainingCost]
    """'target', 'retain_model', 'train', and 'method.NAME' for a fine-tuning that the method declares."""
    assumptions: list[str]
    """Assumptions behind the estimates."""


@dataclass(frozen=True)
class _Case:
    """A training with certain settings on a number of GPUs."""

    memory: MemoryEstimate
    work: Workload
    flops: float
    shape: Shape


class Planner:
    """Estimates memory and time of a recipe's trainings; model and rows are read once for all settings tried.

    Raises:
        UserError: The model's config or the local data cannot be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        name = recipe.model.name
        unknown = name is not None and not Path(name).exists() and name not in bundled_configs()
        self.recipe = recipe
        self.model: Any = meta_model(recipe.model, online=unknown and hub_reachable())
        self.rows = plan_rows(recipe)
        self._shapes: dict[str, Shape] = {}
        self._cases: dict[tuple[str, tuple[str, ...], int], _Case] = {}

    @property
    def sections(self) -> dict[str, Train]:
        """The recipe's trainings by section, such as 'train' or 'method.train'."""
        return _sections(self.recipe)

    def case(self, section: str, changes: Sequence[str] = (), num_gpus: int = 1) -> _Case:
        """Return a training's memory and work on each GPU, with changed settings."""
        key = (section, tuple(changes), num_gpus)
        if key not in self._cases:
            recipe = self.recipe
            if changes:
                data = recipe.resolved()
                override(data, changes)
                try:
                    recipe = parse_recipe(data, source=recipe.name)
                except UserError as error:
                    raise AssertionError(f"a plan tries only valid settings: {changes}") from error
            self._cases[key] = self._estimate(section, recipe, num_gpus)
        return self._cases[key]

    def _estimate(self, section: str, recipe: Recipe, num_gpus: int) -> _Case:
        train, shape = _sections(recipe)[section], self._shape(section, recipe)
        rows = training_rows(recipe, section, self.rows)
        work = workload(recipe, section, train, rows, shape, counted=self.rows.counted, num_gpus=num_gpus)
        needs = recipe.method.needs() if section == "train" else Needs()
        compared = needs.reference
        memory = memory_estimate(
            recipe,
            shape,
            train,
            work.widest,
            scored_positions=min(INFERENCE_TOKENS, work.num_scored) if compared or needs.reference_logp else 0,
            num_gpus=num_gpus,
        )
        # With an adapter the reference is run at every step, whatever positions are needed.
        copied = compared is True or (bool(compared) and shape.trained == "adapter")
        flops = step_flops(
            shape,
            positions=work.positions_per_step,
            answers=work.answers_per_step,
            width=work.mean_width,
            checkpointing=recipe.model.gradient_checkpointing,
            compared="copy" if copied else "stored" if compared else "",
        )
        return _Case(memory, work, flops, shape)

    def cost(self, section: str) -> TrainingCost:
        """Return a training's memory and time with the recipe's settings, and its fit on each GPU."""
        case = self.case(section)
        fits = [self._fit(section, gpu, case) for gpu in gpus()]
        return TrainingCost(memory=case.memory, workload=case.work, flops_per_step=case.flops, gpus=fits)

    def _fit(self, section: str, gpu: Gpu, case: _Case) -> Fit:
        fits = on_card(case.memory) <= gpu.usable_bytes
        chosen, changes, num_gpus = (case, list[str](), 1)
        if not fits:
            for changes, num_gpus in self._ladder(section):
                chosen = self.case(section, changes, num_gpus)
                if on_card(chosen.memory) <= gpu.usable_bytes:
                    break
            else:
                return Fit(
                    gpu=gpu.name,
                    fits=False,
                    total_bytes=on_card(case.memory),
                    changes=[],
                    num_gpus=None,
                    seconds_per_step=None,
                )
        half = self.recipe.model.dtype != "float32"
        seconds = step_seconds(
            gpu, chosen.shape, chosen.flops, micro_batches=chosen.work.accumulation, half=half, num_gpus=num_gpus
        )
        return Fit(
            gpu=gpu.name,
            fits=fits,
            total_bytes=on_card(chosen.memory),
            changes=changes,
            num_gpus=num_gpus,
            seconds_per_step=seconds,
        )

    def _ladder(self, section: str) -> Iterator[tuple[list[str], int]]:
        """Yield changes and numbers of GPUs, from the mildest to the most far-reaching: the first that fits is advised.

        Fewer rows at a time, checkpointing, an 8-bit optimiser, more GPUs; an adapter last, because it trains
        something else.
        """
        train = self.sections[section]
        size_setting = f"{section}.device_batch_size="
        mild: list[list[str]] = [[]]
        if train.normalize == "batch":
            sizes = [2**k for k in range(12, -1, -1) if 2**k < min(train.device_batch_size, train.batch_size)]
            mild += [[f"{size_setting}{size}"] for size in sizes]
        checkpointed = [[*change, "model.gradient_checkpointing=true"] for change in (mild[0], mild[-1])]
        if not self.recipe.model.gradient_checkpointing:
            mild += checkpointed
        yield from ((change, 1) for change in mild[1:])
        smallest = mild[-1]
        # Without accumulation, gradients are allocated only after activations are freed.
        unaccumulated = [f"{size_setting}{train.batch_size}", "model.gradient_checkpointing=true"]
        if train.batch_size > train.device_batch_size and train.normalize == "batch":
            yield unaccumulated, 1
        adamw = train.optimizer.startswith("adamw")
        if adamw:
            eight_bit = f"{section}.optimizer=adamw_bnb_8bit"
            yield [eight_bit], 1
            yield [*smallest, eight_bit], 1
            yield [*unaccumulated, eight_bit], 1
        shared: list[tuple[list[str], int]] = []
        for num_gpus in (count for count in _GPUS if count <= train.batch_size):
            # More rows at a time than a process's share of the batch have no effect.
            limit = max(1, train.batch_size // num_gpus)
            fitting = [
                setting
                for setting in smallest
                if not setting.startswith(size_setting) or int(setting.removeprefix(size_setting)) <= limit
            ]
            shared.append((fitting, num_gpus))
            yield [], num_gpus
            yield fitting, num_gpus
        if adamw:
            # Bitsandbytes' optimisers do not support FSDP2's shards; torchao's do.
            for fitting, num_gpus in shared:
                yield [*fitting, f"{section}.optimizer=adamw_torch_8bit"], num_gpus
        shape = self._shape(section, self.recipe)
        # An adapter replaces the training of all weights, not that of weights which a method chooses itself.
        if section == "train" and shape.trained != "adapter" and shape.num_trainable == shape.num_parameters:
            yield ["model.lora={rank: 8}"], 1
            yield [*smallest, "model.lora={rank: 8}"], 1

    def _shape(self, section: str, recipe: Recipe) -> Shape:
        key = f"{section} {recipe.model.lora}"
        if key not in self._shapes:
            self._shapes[key] = shape_of(recipe, self.model, section)
        return self._shapes[key]


def _sections(recipe: Recipe) -> dict[str, Train]:
    named = {"target": recipe.target, "retain_model": recipe.retain_model, "train": recipe.train}
    named |= {f"method.{name}": tuning.train for name, tuning in recipe.method.needs().trainings.items()}
    return {name: train for name, train in named.items() if train is not None}


def on_card(memory: MemoryEstimate) -> int:
    """Return the bytes on a GPU: without the libraries' memory, which is in the share that `USABLE` leaves free."""
    return memory.total_bytes - RUNTIME_BYTES

"""What a recipe's trainings will take: memory part by part, seconds per step on named GPUs, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.config.load import override, parse_recipe
from expunge.config.recipe import Recipe, Train
from expunge.errors import UserError
from expunge.modeling.architectures import known_models, meta_model
from expunge.modeling.batch import ONCE_TOKENS
from expunge.planning.gpus import Gpu, gpus
from expunge.planning.memory import RUNTIME_BYTES, MemoryEstimate, memory_estimate
from expunge.planning.shape import Shape, shape_of
from expunge.planning.throughput import step_flops, step_seconds
from expunge.planning.workload import Material, Rows, Workload, material, training_rows, workload
from expunge.records import Record
from expunge.services.hub import hub_reachable

_GPUS = (2, 4, 8, 16)


class Fit(Record):
    """One training on one kind of GPU."""

    gpu: str
    fits: bool
    """On one card, with the recipe's settings."""
    total_bytes: int
    """With the changes, on each card."""
    changes: list[str]
    """Settings with which it fits, the fewest that were found; empty where it fits as it is."""
    num_gpus: int | None
    """Cards that share weights, gradients and optimiser (FSDP); None where no change that was tried is enough."""
    seconds_per_step: float | None
    """With the changes; None where it does not fit."""


class TrainingCost(Record):
    """One training of a recipe."""

    memory: MemoryEstimate
    workload: Workload
    flops_per_step: float
    gpus: list[Fit]


class PlanReport(Record):
    """What a recipe's trainings will take."""

    recipe: str
    trainings: dict[str, TrainingCost]
    """'target', 'retain_model', 'train', and 'method.NAME' for a fine-tuning that the method declares."""
    assumptions: list[str]
    """What the numbers rest on."""


@dataclass(frozen=True)
class _Case:
    """A training under some settings on some GPUs."""

    memory: MemoryEstimate
    work: Workload
    flops: float
    shape: Shape


class Planner:
    """Derives a recipe's costs; model and rows are read once, whatever settings are tried.

    Raises:
        UserError: The model's config or the local data cannot be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        name = recipe.model.name
        unknown = name is not None and not Path(name).exists() and name not in known_models()
        self.recipe = recipe
        self.model: Any = meta_model(recipe.model, online=unknown and hub_reachable())
        self.material: Material = material(recipe)
        self._shapes: dict[str, Shape] = {}
        self._cases: dict[tuple[str, tuple[str, ...], int], _Case] = {}

    @property
    def sections(self) -> dict[str, Train]:
        """The recipe's trainings."""
        return sections(self.recipe)

    def case(self, section: str, changes: Sequence[str] = (), num_gpus: int = 1) -> _Case:
        """What a training takes on each GPU, with some settings changed."""
        key = (section, tuple(changes), num_gpus)
        if key not in self._cases:
            self._cases[key] = self._derive(section, _changed(self.recipe, changes), num_gpus)
        return self._cases[key]

    def _derive(self, section: str, recipe: Recipe, num_gpus: int) -> _Case:
        train, shape = sections(recipe)[section], self._shape(section, recipe)
        rows: Rows = training_rows(recipe, section, self.material)
        counted = self.material.counted
        work = workload(recipe, section, train, rows, shape, counted=counted, num_gpus=num_gpus)
        needs = recipe.method.needs()
        compared = needs.reference if section == "train" else False
        tokens = ONCE_TOKENS if compared or needs.reference_logp else 0
        memory = memory_estimate(
            recipe,
            shape,
            train,
            work.widest,
            scored_positions=min(tokens, work.num_scored) if section == "train" else 0,
            num_gpus=num_gpus,
        )
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
        """A training as the recipe has it, and on each GPU."""
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
        """Changes from the mildest to the most far-reaching: the first that fits is the advice.

        Fewer rows at a time, checkpointing, an 8-bit optimiser, more GPUs; an adapter last, because it trains
        something else.
        """
        train = self.sections[section]
        mild: list[list[str]] = [[]]
        if train.normalize == "batch":
            sizes = [2**k for k in range(12, -1, -1) if 2**k < min(train.device_batch_size, train.batch_size)]
            mild += [[f"{section}.device_batch_size={size}"] for size in sizes]
        slower = [[*change, "model.gradient_checkpointing=true"] for change in (mild[0], mild[-1])]
        if not self.recipe.model.gradient_checkpointing:
            mild += slower
        yield from ((change, 1) for change in mild[1:])
        least = mild[-1]
        # Not accumulated, gradients are not there before activations have gone.
        whole = [f"{section}.device_batch_size={train.batch_size}", "model.gradient_checkpointing=true"]
        if train.batch_size > train.device_batch_size and train.normalize == "batch":
            yield whole, 1
        eight = f"{section}.optimizer=adamw_bnb_8bit"
        if train.optimizer.startswith("adamw"):
            yield [eight], 1
            yield [*least, eight], 1
            yield [*whole, eight], 1
        for num_gpus in _GPUS:
            if num_gpus <= train.batch_size:
                yield [], num_gpus
                yield self._of_one_process(least, section, num_gpus), num_gpus
        if train.optimizer.startswith("adamw"):
            # Bitsandbytes' optimisers do not know of shards; torchao's do.
            for num_gpus in (count for count in _GPUS if count <= train.batch_size):
                yield (
                    [*self._of_one_process(least, section, num_gpus), f"{section}.optimizer=adamw_torch_8bit"],
                    num_gpus,
                )
        shape = self._shape(section, self.recipe)
        # An adapter replaces training of all weights; a method that trains some of them names those itself.
        if section == "train" and shape.trained != "adapter" and shape.num_trainable == shape.num_parameters:
            yield ["model.lora={rank: 8}"], 1
            yield [*least, "model.lora={rank: 8}"], 1

    def _of_one_process(self, changes: list[str], section: str, num_gpus: int) -> list[str]:
        """Without a number of rows that would leave some processes without any."""
        prefix = f"{section}.device_batch_size="
        rows = max(1, self.sections[section].batch_size // num_gpus)
        return [each for each in changes if not each.startswith(prefix) or int(each.removeprefix(prefix)) <= rows]

    def _shape(self, section: str, recipe: Recipe) -> Shape:
        key = f"{section} {recipe.model.lora}"
        if key not in self._shapes:
            self._shapes[key] = shape_of(recipe, self.model, section)
        return self._shapes[key]


def sections(recipe: Recipe) -> dict[str, Train]:
    """The trainings of a recipe by the place of their settings."""
    named = {"target": recipe.target, "retain_model": recipe.retain_model, "train": recipe.train}
    named |= {f"method.{name}": tuning.train for name, tuning in recipe.method.needs().trainings.items()}
    return {name: train for name, train in named.items() if train is not None}


def on_card(memory: MemoryEstimate) -> int:
    """Bytes on a GPU, where the libraries' share is part of the margin that a plan leaves free."""
    return memory.total_bytes - RUNTIME_BYTES


def _changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    if not changes:
        return recipe
    data = recipe.resolved()
    override(data, changes)
    try:
        return parse_recipe(data, source=recipe.name)
    except UserError as error:
        raise AssertionError(f"a plan tries only settings that hold: {changes}") from error

"""The audit: trains copies on the rows of each tier, and joins what the two halves of the people give away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from expunge.audits.base import BEFORE, Attempt, Audit, Workload
from expunge.audits.relearn.choice import FOLD, Grid, attempt_name, confirm
from expunge.audits.relearn.tiers import FOLDS, Halves, Tier, title, trains_on_people
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.findings import Rule, compare_arms
from expunge.audits.shared.fine_tuning import FineTuning, Recipe, encode_rows, scaled_lr
from expunge.audits.shared.outcomes import Measure, measure_rows, spread, utility_rows
from expunge.config.recipe import Lora, Source
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.sources.rows import load_rows
from expunge.data.templates import Encoded, Template
from expunge.errors import DataError
from expunge.modeling.adapters import add_lora
from expunge.modeling.load import context_length, pad_id_of
from expunge.modeling.types import CausalLM, TrainedModel
from expunge.probes.session import Session
from expunge.records import AuditResult, Cost
from expunge.rundir import fingerprint


class Relearn(Audit):
    """Fine-tunes a copy of each model on rows of some people, and measures what other people's rows give away.

    A model that only hides what it knows returns it after training on related rows that do not contain it; a model
    that does not know it cannot. The people of the forget set are split into two halves. Each half is tested after
    training on the other one, with the learning rate and the number of steps that gave away most about the other half
    (largest D; without a retain model the largest value) within the bound on lost utility. So every person is tested
    once, with settings that were chosen on other people, and all models are trained with the same ones.

    Tiers, in ascending order of what the attacker knows: unrelated text, retain rows, and 1, 4, 16 or all rows of the
    other people. For comparison only: 'shuffled', as 'all' but with answers of other people, shows what training on
    the form alone does; 'forget' trains on the tested rows themselves, which teaches them again to any model.

    Facts of a finding: `step_n`, D after n steps with the chosen learning rates, from 0 (the model as it is); `area`,
    the mean of D over all steps, by the trapezoid rule; `steps_to_half`, the first measured step at which the excess
    over the retain model is half of the target's before any attack (left out if it never is); `chosen_step_f` and
    `chosen_lr_f`, the choice for half f of the people; `largest_...`, the largest D of each setting of the grid;
    `shuffled`, D of the tier 'shuffled'. Without a retain model, D is the difference to the model as it is.
    """

    paper: ClassVar[str] = "Deeb and Roger 2024, arXiv:2410.08827; Hu et al. 2024, arXiv:2406.13356"

    tiers: list[Tier] = Field(default=["unrelated", "retain", 1, 4, 16, "all", "shuffled", "forget"], min_length=1)
    """Rows to train on: 'unrelated', 'retain', numbers of rows of other people, 'all', 'shuffled' or 'forget'."""
    lora_lr: list[float] = Field(default=[1e-4, 3e-4])
    """Learning rates of low-rank adapters; may be empty."""
    full_lr: list[float] = Field(default=[1e-5, 2e-5, 5e-5])
    """Learning rates of all weights; may be empty."""
    reference_width: int | None = Field(default=2048, ge=1)
    """Hidden size of a model to which the learning rates belong. For a narrower model they are multiplied by
    reference_width / hidden size, because the best learning rate of Adam falls with the width (Yang et al. 2022,
    arXiv:2203.03466); null for the same learning rates at every width."""
    lora: Lora = Lora(rank=16, alpha=32)
    """The adapter that `lora_lr` trains."""
    steps: list[int] = Field(default=[4, 16, 64, 125], min_length=1)
    """Numbers of steps after which the copy is measured."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per step; at most the rows of the tier."""
    loss: Literal["text", "answer"] = "text"
    """Tokens of each row that are learned: 'text' is question and answer, 'answer' the answer alone."""
    measures: list[Measure] = Field(default=["probability"], min_length=1)
    """Scores of each tested row."""
    limit: int | None = Field(default=None, ge=2)
    """Test at most so many rows, spread over the forget set; null for all. Training uses all rows."""
    max_length: int = Field(default=512, ge=2)
    """Tokens of the longest row that is trained on, at most the context of the model; the rest is cut off."""
    unrelated: Source | None = None
    """Texts of the tier 'unrelated'; null for 80 generated statements about invented countries."""
    seed: int = 0
    """Seed of the samples of rows, the batches and the adapters."""

    _encoded: dict[str, list[Encoded]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.lora_lr and not self.full_lr:
            raise ValueError("lora_lr and full_lr are both empty; give at least one learning rate")
        for name in ("tiers", "lora_lr", "full_lr", "measures"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: a value is named twice")
        if any(lr <= 0 for lr in (*self.lora_lr, *self.full_lr)):
            raise ValueError("lora_lr and full_lr: a learning rate must be above 0")
        if any(isinstance(tier, int) and tier < 1 for tier in self.tiers):
            raise ValueError("tiers: a number of rows must be at least 1")
        if self.steps != sorted(set(self.steps)) or self.steps[0] < 1:
            raise ValueError("steps: give ascending numbers of at least 1; the model as it is, is always measured")
        if "shuffled" in self.tiers and "all" not in self.tiers:
            raise ValueError("tiers: 'shuffled' is compared with 'all'; name both")
        if "lora" in self.model_fields_set and not self.lora_lr:
            raise ValueError("lora has no effect: lora_lr is empty; leave it out")
        if self.unrelated is not None and "unrelated" not in self.tiers:
            raise ValueError("unrelated has no effect: the tier 'unrelated' is not in tiers; leave it out")
        return self

    @property
    def settings(self) -> dict[str, tuple[Lora | None, float]]:
        """Name of a setting of the grid -> the adapter (None to train all weights) and the learning rate."""
        adapters = {f"lora lr {lr:g}": (self.lora, lr) for lr in self.lora_lr}
        return {**adapters, **{f"full lr {lr:g}": (None, lr) for lr in self.full_lr}}

    def files(self) -> list[str]:
        """Return the user's file of unrelated text, too."""
        return [*super().files(), *([self.unrelated.path] if self.unrelated is not None else [])]

    def stages(self, sets: Sets) -> list[str]:
        """Return the model as it is, and one stage per training.

        Raises:
            DataError: All forget rows are about one person.
        """
        return [BEFORE, *self._trainings(Halves(sets, self.seed))]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: training steps, and every measure and the utility after each number of steps."""
        halves = Halves(sets, self.seed)
        trainings = self._trainings(halves)
        tested, utility = len(self._tested(halves)), len(utility_rows(sets))
        used: float = len(self.measures) * tested + utility
        for tier, _, fold in trainings.values():
            batch = min(self.batch_size, tier) if isinstance(tier, int) else self.batch_size
            measured = len(self.measures) * tested / (1 if fold is None else len(FOLDS)) + utility
            used += 3 * self.steps[-1] * batch + len(self.steps) * measured
        return Workload(passes=used / len(halves.rows), models=2, training=True)

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Measure the model as it is, or train one copy and measure it after each number of steps."""
        halves = Halves(arm.sets, self.seed)
        tested = self._tested(halves)
        if stage == BEFORE:
            return self._measure(BEFORE, arm, arm.session(), tested, halves, Cost(passes=1), {})
        tier, setting, fold = self._trainings(halves)[stage]
        tested = [row for row in tested if fold in (None, halves.fold_of(row))]
        with arm.trainable_copy() as model:
            return list(self._train(arm, model, tier, setting, fold, tested, halves))

    def findings(self, attempts: Mapping[str, Sequence[Attempt]], rule: Rule) -> AuditResult:
        """Choose the worst case of each tier on one half of the people, and compare the models on the other half."""
        grid = Grid(self.tiers, list(self.settings), self.steps, self.measures)
        chosen, notes = confirm(attempts, grid, rule)
        result = compare_arms(self.key, chosen, rule, self.spec())
        return result.model_copy(update={"notes": [*result.notes, *notes]})

    def _trainings(self, halves: Halves) -> dict[str, tuple[Tier, str, int | None]]:
        """Return stage -> tier, setting of the grid, and tested half (None if one training serves both)."""
        return {
            f"{title(tier)}, {setting}" + (f", tested on half {fold}" if fold else ""): (tier, setting, fold)
            for tier in self.tiers
            if halves.has(tier)
            for setting in self.settings
            for fold in (FOLDS if trains_on_people(tier) else (None,))
        }

    def _tested(self, halves: Halves) -> list[Row]:
        """Return the rows that are measured: at most half of `limit` of each half of the people."""
        limit = None if self.limit is None else self.limit // len(FOLDS)
        return [
            row for fold in FOLDS for row in spread([row for row in halves.rows if halves.fold_of(row) == fold], limit)
        ]

    def _train(
        self, arm: Arm, model: CausalLM, tier: Tier, setting: str, fold: int | None, tested: list[Row], halves: Halves
    ) -> Iterator[Attempt]:
        """Train a copy, and yield its attempts after each number of steps."""
        lora, lr = self.settings[setting]
        config = model.config
        lr = scaled_lr(lr, self.reference_width, config)
        unrelated = None if self.unrelated is None else load_rows(self.unrelated, "unrelated")
        encoded = self._encode(
            halves.training(tier, fold, unrelated), arm.template, min(self.max_length, context_length(config))
        )
        trained: TrainedModel = model if lora is None else add_lora(model, lora, self.seed)
        tuning = FineTuning(
            trained,
            encoded,
            Recipe(lr, self.batch_size, self.seed),
            pad_id=pad_id_of(arm.template.tokenizer),
            title=f"Training {arm.label} on {title(tier)}",
        )
        num_rows = len(halves.rows)
        for step in self.steps:
            started = time.monotonic()
            tuning.train_until(step)
            passes = (3 * step * tuning.batch_size + len(tested)) / num_rows
            cost = Cost(rows=len(encoded), steps=step, passes=round(passes, 4))
            name, session = attempt_name(tier, setting, step), arm.session_with(trained)
            attempts = self._measure(name, arm, session, tested, halves, cost, {"lr": lr})
            # Seconds since the measurement before, so that those of all attempts add up to the time that passed.
            share = round((time.monotonic() - started) / len(attempts), 3)
            for attempt in attempts:
                yield replace(attempt, cost=attempt.cost.model_copy(update={"seconds": share}))

    def _measure(
        self,
        name: str,
        arm: Arm,
        session: Session,
        rows: Sequence[Row],
        halves: Halves,
        cost: Cost,
        facts: dict[str, float],
    ) -> list[Attempt]:
        utility = arm.utility(session)
        folds = [halves.fold_of(row) for row in rows]
        return [
            Attempt(
                name,
                [{**row, FOLD: fold} for row, fold in zip(measure_rows(session, rows, measure), folds, strict=True)],
                measure,
                cost,
                utility,
                facts=facts,
            )
            for measure in self.measures
        ]

    def _encode(self, rows: Sequence[Row], template: Template, max_length: int) -> list[Encoded]:
        """Encode rows, once for all settings and all models that read the same tokens.

        Raises:
            DataError: No row has anything to learn.
        """
        key = fingerprint([template.fingerprint, RowSet("", tuple(rows)).hash, max_length])
        if key not in self._encoded:
            found = encode_rows(rows, template, max_length=max_length, answer_only=self.loss == "answer")
            if not found:
                raise DataError(
                    f"none of the {len(rows)} rows to train on has an answer within its first {max_length} tokens.",
                    fix="Raise max_length, or set loss=text.",
                )
            self._encoded[key] = found
        return self._encoded[key]

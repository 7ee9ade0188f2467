"""Perturb: add noise to the weights, remove weights, or move them back towards the target."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from expunge.audits.base import AUDITED, BEFORE, Attempt, Audit, AuditResult, Cost, Workload
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.findings import Rule
from expunge.audits.shared.linear_layers import linear_layers, weight_of
from expunge.audits.shared.outcomes import Measure, forget_rows, measure_rows, spread
from expunge.data.collate import collate
from expunge.data.sets import Sets
from expunge.data.templates import Encoded
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode
from expunge.probes.session import Session

_NOT_COUNTED = {
    "random": "control: random weights are removed, for comparison with other prunings at the same sparsity",
    "interpolation": "the attacker has the target itself, which knows the forget set",
}


class Perturb(Audit):
    """Changes the weights without training, and measures what the forget rows give away afterwards.

    Unlearning that only hides knowledge can depend on small changes of few weights, which any disturbance undoes.

    - noise: W <- W + sigma std(W) E with standard normal E, for every parameter tensor with its own standard deviation.
    - magnitude: set the weights of smallest |W| to 0 in every linear layer but the output head (embeddings, head and
      norms stay as they are).
    - wanda: the same for the smallest |W_ij| ||X_j||_2 among the inputs j of each output i; X_j are the inputs of the
      layer on retain rows, never on forget rows.
    - random: the same number of random inputs of each output; a control that is listed and not counted.
    - interpolation: theta_u + alpha (theta_t - theta_u) with the target's weights theta_t; listed and not counted. On
      the retain model it mixes that model with the target.

    The fact `distance_to_target` is ||theta_u - theta_t||_2 / ||theta_t||_2.
    """

    paper: ClassVar[str] = "Sun et al. 2023, arXiv:2306.11695, eq. 1; Łucki et al. 2024, arXiv:2409.18025"
    uses: ClassVar[tuple[str, ...]] = ("target",)

    sigmas: list[float] = Field(default=[0.05, 0.1, 0.2])
    """Standard deviations of the noise, relative to that of each tensor; empty for no noise."""
    sparsities: list[float] = Field(default=[0.1, 0.3, 0.5])
    """Shares of weights that are set to 0; empty for no pruning."""
    alphas: list[float] = Field(default=[0.25, 0.5, 0.75])
    """Steps towards the target; empty for no interpolation."""
    measures: list[Measure] = Field(default=["probability"], min_length=1)
    """Measures of each row."""
    calibration_rows: int = Field(default=64, ge=1)
    """Retain rows from which Wanda's norms are computed."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows, spread over the forget set; null for all."""
    seed: int = 0
    """Seed of the noise and of random pruning; the noise is the same for all models."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, values, allowed in (
            ("sigmas", self.sigmas, "above 0"),
            ("sparsities", self.sparsities, "between 0 and 1"),
            ("alphas", self.alphas, "between 0 and 1"),
        ):
            if any(value <= 0 or (allowed != "above 0" and value >= 1) for value in values):
                raise ValueError(f"{name}: {values} must be {allowed}")
            if len({f"{value:g}" for value in values}) < len(values):
                raise ValueError(f"{name}: {values} names a value twice")
        if not (self.sigmas or self.sparsities or self.alphas):
            raise ValueError("sigmas, sparsities and alphas are empty, so nothing is attacked")
        if not self.sparsities and "calibration_rows" in self.model_fields_set:
            raise ValueError("calibration_rows has no effect without sparsities")
        return self

    def stages(self, sets: Sets) -> list[str]:
        """Return the model as it is, and one stage per change; no Wanda pruning without retain rows."""
        stages = self._all_stages()
        return stages if sets.retain is not None else [stage for stage in stages if not stage.startswith("wanda")]

    def _all_stages(self) -> list[str]:
        return [
            BEFORE,
            *(f"noise {sigma:g}" for sigma in self.sigmas),
            *(f"{kind} {share:g}" for share in self.sparsities for kind in ("magnitude", "wanda", "random")),
            *(f"interpolation {alpha:g}" for alpha in self.alphas),
        ]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: every measure for every change."""
        share = 1.0 if self.limit is None else min(1.0, self.limit / len(forget_rows(sets)))
        return Workload(passes=share * len(self.measures) * len(self.stages(sets)), models=2)

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Measure the model as it is, or with changed weights."""
        if stage == BEFORE:
            return self._measure(stage, arm, arm.session(), facts=_distance_fact(arm))
        kind, _, value = stage.partition(" ")
        if kind == "interpolation":
            return self._interpolated(arm, stage, float(value))
        calibration = self._calibration(arm) if kind == "wanda" else []
        cost = Cost(passes=1 + len(calibration) / len(forget_rows(arm.sets)), rows=len(calibration))
        with arm.edited(self._edit(arm, kind, float(value), calibration)) as session:
            return self._measure(stage, arm, session, cost)

    def findings(self, attempts: Mapping[str, Sequence[Attempt]], rule: Rule) -> AuditResult:
        """Compare the models, and note which changes could not be made."""
        result = super().findings(attempts, rule)
        made = {attempt.name.partition(" ")[0] for attempt in attempts[AUDITED]}
        left_out = {stage.partition(" ")[0] for stage in self._all_stages()} - made
        reasons = {
            "wanda": "Wanda pruning was not run: it needs retain rows for the norms of inputs.",
            "interpolation": "Interpolation was not run, and the distance to the target is unknown: they need the "
            "target (--target), with weights of the same names and shapes.",
        }
        notes = [reason for kind, reason in reasons.items() if kind in left_out]
        return result.model_copy(update={"notes": [*result.notes, *notes]})

    def _measure(
        self,
        name: str,
        arm: Arm,
        session: Session,
        cost: Cost | None = None,
        facts: Mapping[str, float] | None = None,
    ) -> list[Attempt]:
        rows = spread(forget_rows(arm.sets).rows, self.limit)
        utility = arm.utility(session)
        return [
            Attempt(
                name,
                measure_rows(session, rows, measure),
                measure,
                cost or Cost(passes=1),
                utility,
                not_counted=_NOT_COUNTED.get(name.partition(" ")[0], ""),
                facts=dict(facts or {}),
            )
            for measure in self.measures
        ]

    def _edit(self, arm: Arm, kind: str, value: float, calibration: Sequence[Encoded]) -> Callable[[nn.Module], None]:
        if kind == "noise":
            return lambda model: add_noise(model, value, self.seed)
        if kind == "magnitude":
            return lambda model: prune(model, value, lambda name, weight: weight.abs().flatten()[None])
        if kind == "random":
            generator = torch.Generator().manual_seed(self.seed)
            return lambda model: prune(
                model, value, lambda name, weight: torch.rand(weight.shape, generator=generator).to(weight.device)
            )
        norms = input_norms(arm.merged(), calibration)
        return lambda model: prune(model, value, lambda name, weight: weight.abs() * norms[name])

    def _calibration(self, arm: Arm) -> list[Encoded]:
        """Return retain rows that fit into the context, as tokens."""
        assert arm.sets.retain is not None, "`stages` leaves Wanda out without retain rows"
        template, limit = arm.template.without_limit(), arm.session().context
        rows = spread(arm.sets.retain.rows, self.calibration_rows)
        encoded = [template.encode(row.question, row.answer, row.id) for row in rows]
        return [row for row in encoded if len(row.ids) <= limit]

    def _interpolated(self, arm: Arm, stage: str, alpha: float) -> list[Attempt]:
        """Measure the mixed weights; no attempt without a target of the same shapes."""
        if arm.role == "target":
            return self._measure(stage, arm, arm.session())
        if "target" not in arm.names:
            return []
        with arm.other("target") as target:
            ours, mixed = arm.merged(), target.merged()
            if not same_shapes(ours, mixed):
                return []
            # The target's copy is released afterwards, so its weights can be overwritten.
            interpolate(ours, mixed, alpha)
            return self._measure(stage, arm, arm.session_with(mixed))


@torch.no_grad()
def add_noise(model: nn.Module, sigma: float, seed: int) -> None:
    """Add sigma std(W) E to every parameter tensor W in place, with standard normal E and the std of its values."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        # Sampled on the CPU, so that the noise is the same on every device.
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        scale = sigma * parameter.float().std(correction=0)
        parameter.copy_(parameter.float() + scale * noise)


@torch.no_grad()
def prune(model: nn.Module, sparsity: float, scores: Callable[[str, Tensor], Tensor]) -> None:
    """Set the weights of the lowest scores to 0, in every linear layer but the output head.

    Args:
        model: The causal language model, which is changed in place.
        sparsity: Share of weights to remove from each row of scores, rounded to full weights.
        scores: From a layer's name and its float32 weight (outputs, inputs) to scores of as many elements, whose rows
            are pruned separately.
    """
    for name, layer in linear_layers(model).items():
        weight = weight_of(layer)
        ranked = scores(name, weight.float())
        removed = ranked.argsort(dim=1, stable=True)[:, : round(sparsity * ranked.shape[1])]
        kept = torch.ones_like(ranked, dtype=torch.bool).scatter_(1, removed, False)
        weight.mul_(kept.view(weight.shape))


@torch.no_grad()
def input_norms(model: Any, rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return ||X_j||_2 over all tokens of the rows for each input j of each linear layer but the output head.

    Rows are run one by one, so that no padding enters the norms. A layer that never runs, such as an expert that no
    token is sent to, has norms of 0.
    """
    layers = linear_layers(model)
    squares = {name: torch.zeros(weight_of(layer).shape[1], device=model.device) for name, layer in layers.items()}

    def record(name: str) -> Any:
        def add(module: nn.Module, args: tuple[Any, ...]) -> None:
            squares[name] += args[0].float().square().flatten(0, -2).sum(0)

        return add

    with contextlib.ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(record(name)).remove)
        for row in rows:
            decode(model, TensorBatch.of(collate([row], pad_id=0), model.device))
    return {name: total.sqrt() for name, total in squares.items()}


@torch.no_grad()
def interpolate(model: nn.Module, target: nn.Module, alpha: float) -> None:
    """Overwrite the target's weights with theta_u + alpha (theta_t - theta_u)."""
    ours = dict(model.named_parameters())
    for name, parameter in target.named_parameters():
        parameter.copy_(torch.lerp(ours[name].float(), parameter.float(), alpha))


@torch.no_grad()
def relative_distance(model: nn.Module, target: nn.Module) -> float:
    """Return ||theta_u - theta_t||_2 / ||theta_t||_2 over all parameters."""
    ours = dict(model.named_parameters())
    changed = total = 0.0
    for name, parameter in target.named_parameters():
        changed += float((ours[name].double() - parameter.double()).square().sum())
        total += float(parameter.double().square().sum())
    return float((changed / total) ** 0.5)


def same_shapes(model: nn.Module, other: nn.Module) -> bool:
    """Return whether two models have parameters of the same names and shapes."""
    shapes = [{name: tuple(each.shape) for name, each in part.named_parameters()} for part in (model, other)]
    return shapes[0] == shapes[1]


def _distance_fact(arm: Arm) -> dict[str, float]:
    if arm.role == "target" or "target" not in arm.names:
        return {}
    with arm.other("target") as target:
        ours, theirs = arm.merged(), target.merged()
        return {"distance_to_target": relative_distance(ours, theirs)} if same_shapes(ours, theirs) else {}

"""Quantise: round the weights to 8 or 4 bits, which can undo small changes of unlearning."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from expunge.audits.base import BEFORE, Attempt, Audit, Cost, Workload
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.linear_layers import linear_layers, weight_of
from expunge.audits.shared.outcomes import Measure, forget_rows, measure_rows, spread
from expunge.data.sets import Row, Sets
from expunge.probes.session import Session

Precision = Literal["int8", "int4", "nf4", "fp4"]

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Values of the data type NormalFloat4 (Dettmers et al. 2023, arXiv:2305.14314, appendix E)."""
_FP4 = (-1.0, -2 / 3, -0.5, -1 / 3, -0.25, -1 / 6, -1 / 192, 0.0, 1 / 192, 1 / 6, 0.25, 1 / 3, 0.5, 2 / 3, 1.0)
"""Values of the 4-bit floating point type of bitsandbytes, divided by the largest."""


class Quantize(Audit):
    """Rounds the weights of every linear layer, and measures what the forget rows give away afterwards.

    Unlearning with a small learning rate changes each weight by less than the distance of two quantised values, so
    rounding can return it to the target's. The rounding is simulated on the weights: no kernel is needed, the numbers
    are those of dequantised weights, and the model computes in its own precision. All arms are rounded, because
    rounding alone changes what any model gives away.

    int8, int4: symmetric round to nearest, q = round(w / s), s = max|w| / (2^(bits - 1) - 1) over groups of
    `group_size` inputs. nf4, fp4: the nearest value of a code book, scaled by max|w| over blocks of 64 weights.
    Embeddings, the output head and norms stay as they are, as in bitsandbytes.

    The fact `rounded_to_target` is the share of weights that unlearning changed and rounding makes equal to the
    target's, Q(u) = Q(t): it predicts the attack without any forward pass.
    """

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv:2410.16454"
    uses: ClassVar[tuple[str, ...]] = ("target",)

    precisions: list[Precision] = Field(default=["int8", "int4", "nf4", "fp4"], min_length=1)
    """Data types to which the weights are rounded."""
    measures: list[Measure] = Field(default=["probability", "recall"], min_length=1)
    """Measures of each row."""
    group_size: int = Field(default=128, ge=1)
    """Inputs of a weight that share one scale, for int8 and int4."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many rows, spread over the forget set; null for all."""

    def stages(self, sets: Sets) -> list[str]:
        """Return the model as it is, and one stage per data type."""
        return [BEFORE, *self.precisions]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: every measure for every data type."""
        return Workload(passes=len(self.measures) * (len(self.precisions) + 1.0), models=2)

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Measure the model as it is, or with weights rounded to one data type."""
        rows = spread(forget_rows(arm.sets).rows, self.limit)
        if stage == BEFORE:
            return self._measure(stage, arm, arm.session(), rows, {})
        rounding = self._rounding(stage)
        facts = self._overlap(arm, rounding)
        with arm.edited(lambda model: _round(model, rounding)) as session:
            return self._measure(stage, arm, session, rows, facts)

    def _measure(
        self, name: str, arm: Arm, session: Session, rows: tuple[Row, ...], facts: dict[str, float]
    ) -> list[Attempt]:
        utility = arm.utility(session)
        return [
            Attempt(name, measure_rows(session, rows, measure), measure, Cost(passes=1), utility, facts=facts)
            for measure in self.measures
        ]

    def _rounding(self, precision: str) -> Callable[[Tensor], Tensor]:
        if precision.startswith("int"):
            bits = int(precision.removeprefix("int"))
            return lambda weight: round_to_integers(weight, bits, self.group_size)
        codes = torch.tensor(_NF4 if precision == "nf4" else _FP4)
        return lambda weight: round_to_codes(weight, codes)

    def _overlap(self, arm: Arm, rounding: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the share of changed weights that rounding makes equal to the target's; empty without a target."""
        if arm.role == "target" or "target" not in arm.names:
            return {}
        with arm.other("target") as target:
            theirs = linear_layers(target.merged())
            changed = equal = 0
            for name, layer in linear_layers(arm.merged()).items():
                weight, original = weight_of(layer), weight_of(theirs[name])
                differs = weight != original
                changed += int(differs.sum())
                equal += int((differs & (rounding(weight) == rounding(original))).sum())
        return {"rounded_to_target": equal / changed} if changed else {}


def round_to_integers(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """Round each group of inputs to signed integers of `bits` bits, and return the dequantised weights.

    Args:
        weight: (outputs, inputs).
        bits: Bits of the integers; the smallest value, -2^(bits - 1), is not used.
        group_size: Inputs per group; a last smaller group has a scale of its own.
    """
    largest = 2 ** (bits - 1) - 1
    parts = []
    for part in torch.split(weight.float(), group_size, dim=1):
        scale = part.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / largest
        parts.append((part / scale).round() * scale)
    return torch.cat(parts, dim=1).to(weight.dtype)


def round_to_codes(weight: Tensor, codes: Tensor, block_size: int = 64) -> Tensor:
    """Round blocks of weights to the nearest value of a code book, scaled by their largest absolute value.

    Args:
        weight: Weights of any shape; blocks run over the flattened weights.
        codes: Ascending values from -1 to 1.
        block_size: Weights per block.
    """
    flat = weight.float().flatten()
    padded = nn.functional.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)
    scale = padded.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    limits = ((codes[1:] + codes[:-1]) / 2).to(flat.device)
    rounded = codes.to(flat.device)[torch.bucketize(padded / scale, limits)] * scale
    return rounded.flatten()[: len(flat)].view_as(weight).to(weight.dtype)


def _round(model: nn.Module, rounding: Callable[[Tensor], Tensor]) -> None:
    for layer in linear_layers(model).values():
        weight = weight_of(layer)
        weight.copy_(rounding(weight))

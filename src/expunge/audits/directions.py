"""Directions: remove from the residual stream the direction in which unlearning moved the hidden states."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from expunge.audits.base import BEFORE, Attempt, Audit, Cost, SampleRow, Workload
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.folds import fitted_and_tested
from expunge.audits.shared.outcomes import Measure, forget_rows, measure_rows, questions
from expunge.data.collate import collate
from expunge.data.sets import Row, Sets
from expunge.data.templates import Encoded
from expunge.errors import DataError, IncompatibleError
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode
from expunge.modeling.hidden.trace import check_layers, hidden_state, layer_list
from expunge.probes.session import Session

_MEASURE: Measure = "probability"


class Directions(Audit):
    """Ablates the direction that separates the hidden states of the unlearned model from the target's.

    A model that refuses or garbles its answers along one direction of the residual stream still knows them, and
    answers again without that direction.

    r_l = mean_q h_l(q; u) - mean_q h_l(q; t), over forget questions q, at the last token of the prompt, after layer l;
    then h <- h - (h . r_l / |r_l|) r_l / |r_l| at the output of layer l, for all tokens.

    Directions are computed, and layers are chosen, on half of the people, and tested on the others; then the halves
    are swapped. Candidates are each layer alone, and all of them together; the one with the highest probability of
    the true answers is chosen. For the target itself r is 0, and nothing is ablated.

    Control: random directions at the same layers, listed and not counted: the means of their scores in each row. The
    length of a direction does not matter, since it is divided by it.
    """

    paper: ClassVar[str] = (
        "Łucki et al. 2024, arXiv:2409.18025, section 4.3; Arditi et al. 2024, arXiv:2406.11717, eq. 4"
    )
    needs: ClassVar[tuple[str, ...]] = ("target",)

    layers: list[int] | None = Field(default=None, min_length=1)
    """Candidate layers, counted from 0; null for all."""
    controls: int = Field(default=10, ge=1)
    """Number of random directions."""
    limit: int | None = Field(default=None, ge=2)
    """At most so many rows, spread over the forget set; null for all."""
    seed: int = 0
    """Seed of the random directions."""

    def stages(self, sets: Sets) -> list[str]:
        """Return the model as it is, and the ablation.

        Raises:
            DataError: The forget set has no questions, or rows of one person only.
        """
        fitted_and_tested(self._rows(sets))
        return [BEFORE, "ablation"]

    def workload(self, sets: Sets) -> Workload:
        """Return the passes: hidden states of both models, candidates, controls, and the model as it is."""
        share = len(self._rows(sets)) / len(forget_rows(sets))
        layers, per_layer = (0, 1) if self.layers is None else (len(self.layers), 0)
        return Workload(passes=share * (layers + self.controls + 5.0), passes_per_layer=share * per_layer, models=2)

    def attack(self, arm: Arm, stage: str) -> list[Attempt]:
        """Measure the model as it is, or without the direction and without random ones."""
        rows = self._rows(arm.sets)
        if stage == BEFORE:
            return [
                Attempt(stage, measure_rows(arm.session(), rows, _MEASURE), _MEASURE, Cost(passes=1), arm.utility())
            ]
        layers, moved = self._layers(arm), self._moved(arm, rows)
        candidates = [[layer] for layer in layers] + ([layers] if len(layers) > 1 else [])
        # Results of the changed model are not cached.
        session = arm.session_with(arm.model)
        found: dict[str, SampleRow] = {}
        controls: dict[str, list[SampleRow]] = {row.id: [] for row in rows}
        utilities: list[float | None] = []
        for number, (fitted_indices, tested_indices) in enumerate(fitted_and_tested(rows)):
            tested = [rows[i] for i in tested_indices]
            directions = unit(moved[fitted_indices].nanmean(0))
            chosen = _best(session, [rows[i] for i in fitted_indices], directions, candidates)
            with ablate(session.model, directions, chosen):
                after = measure_rows(session, tested, _MEASURE)
                utilities.append(arm.utility(session))
            found |= {str(row["id"]): {**row, "layers": ", ".join(map(str, chosen))} for row in after}
            for control in range(self.controls):
                generator = torch.Generator().manual_seed(self.seed + 1000 * number + control)
                random = unit(torch.randn(directions.shape, generator=generator, dtype=torch.float64))
                with ablate(session.model, random, chosen):
                    for row in measure_rows(session, tested, _MEASURE):
                        controls[str(row["id"])].append(row)
        means = [_mean([controls[row.id][control] for row in rows]) for control in range(self.controls)]
        facts = {"random_mean": float(np.mean(means)), "random_max": float(np.max(means))}
        return [
            Attempt(
                "ablation",
                [found[row.id] for row in rows],
                _MEASURE,
                # Hidden states of both models, each candidate on the fitted people, and the scores of the tested ones.
                Cost(rows=len(rows), passes=len(candidates) + 3.0),
                None if None in utilities else float(np.mean(np.array(utilities, float))),
                facts=facts,
            ),
            Attempt(
                "random directions",
                [_averaged(controls[row.id]) for row in rows],
                _MEASURE,
                Cost(passes=float(self.controls)),
                not_counted="control: random directions are ablated at the same layers",
                facts=facts,
            ),
        ]

    def _rows(self, sets: Sets) -> tuple[Row, ...]:
        return questions(sets, self.key, self.limit)

    def _layers(self, arm: Arm) -> list[int]:
        model = causal_lm(arm.model)
        if self.layers is None:
            return list(range(len(layer_list(model)[1])))
        check_layers(model, "layers", self.layers)
        return self.layers

    def _moved(self, arm: Arm, rows: Sequence[Row]) -> Tensor:
        """Return h(q; u) - h(q; t) per row and layer, (rows, layers, D) in float64; NaN for prompts that do not fit."""
        prompts = [arm.template.prompt_ids(row.question) for row in rows]
        ours = prompt_states(causal_lm(arm.model), prompts, arm.session().context)
        with arm.other("target") as target:
            theirs = prompt_states(causal_lm(target.model), prompts, arm.session().context)
        if ours.shape != theirs.shape:
            raise IncompatibleError(
                f"{arm.label} {arm.name} has {ours.shape[1]} layers of width {ours.shape[2]}, and the target "
                f"{arm.names['target']} {theirs.shape[1]} of width {theirs.shape[2]}, so their hidden states cannot "
                "be compared.",
                fix="Give the target that this model was made from, or leave the audit directions out.",
            )
        return ours.double() - theirs.double()


def _best(session: Session, rows: Sequence[Row], directions: Tensor, candidates: Sequence[list[int]]) -> list[int]:
    """Return the layers whose ablation makes the rows' true answers most probable."""

    def mean_after(layers: list[int]) -> float:
        with ablate(session.model, directions, layers):
            return _mean(measure_rows(session, rows, _MEASURE))

    return max(candidates, key=mean_after)


@contextlib.contextmanager
def ablate(model: Any, directions: Tensor, chosen: Sequence[int]) -> Iterator[None]:
    """Remove a direction from the output of layers: h <- h - (h . r) r.

    Args:
        model: A language model, with or without an adapter.
        directions: (layers, D) a unit vector r for each layer of the model, or zeros for no change.
        chosen: Layers that are changed.
    """
    _, layers = layer_list(causal_lm(model))

    def remove(direction: Tensor) -> Any:
        def change(module: nn.Module, args: Any, output: Any) -> Any:
            hidden = hidden_state(output)
            r = direction.to(hidden.device, torch.float32)
            share = (hidden.float() @ r)[..., None] * r
            changed = (hidden.float() - share).to(hidden.dtype)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return change

    with contextlib.ExitStack() as stack:
        for layer in chosen:
            stack.callback(layers[layer].register_forward_hook(remove(directions[layer])).remove)
        yield


@torch.no_grad()
def prompt_states(model: Any, prompts: Sequence[Sequence[int]], context: int) -> Tensor:
    """Return the hidden states after each layer at the last token of each prompt.

    Args:
        model: The causal language model.
        prompts: Token ids.
        context: Longest prompt that the model accepts.

    Returns:
        (prompts, layers, D) in float32 on the CPU; NaN for longer prompts.
    """
    _, layers = layer_list(model)
    states: list[list[Tensor]] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        states[-1].append(hidden_state(output)[0, -1].float().cpu())

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(record).remove)
        for ids in prompts:
            states.append([])
            if len(ids) <= context:
                # One by one, so that the last position is that of the prompt's last token.
                row = Encoded(tuple(ids), len(ids) - 1)
                decode(model, TensorBatch.of(collate([row], pad_id=0), model.device))
    known = next((state for state in states if state), None)
    if known is None:
        raise DataError(f"no question fits into the model's context of {context} tokens.")
    missing = torch.full_like(torch.stack(known), torch.nan)
    return torch.stack([torch.stack(state) if state else missing for state in states])


def unit(vectors: Tensor) -> Tensor:
    """Return vectors of length 1, (..., D); a zero vector stays zero."""
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, torch.ones_like(length))


def _mean(rows: Sequence[SampleRow]) -> float:
    scores = [row["score"] for row in rows if row["score"] is not None]
    return float(np.mean(scores)) if scores else 0.0


def _averaged(rows: Sequence[SampleRow]) -> SampleRow:
    """Return one row with the mean score of the same row under several directions."""
    return {**rows[0], "score": None if rows[0]["score"] is None else _mean(rows)}

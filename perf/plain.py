"""Plain training: what published code does, in its simplest form.

Batches are in random order and padded to their longest row. Every set has a separate forward pass through all layers,
with labels, so the model computes its own loss over the logits of prompt, answer and padding; the method's loss is then
computed from these logits. A frozen reference stays in memory and is run at every step. RMU runs all layers three times
and computes gradients for everything up to the steered layer. AdamW has its default settings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.templates import Encoded
from expunge.methods.base import Method
from expunge.methods.bases.preference import PREFERRED
from expunge.methods.graddiff import GradDiff
from expunge.methods.idkdpo import IdkDPO
from expunge.methods.npo import NPO
from expunge.methods.rmu import RMU
from expunge.methods.satimp import SatImp
from expunge.methods.simnpo import SimNPO
from expunge.methods.undial import UNDIAL
from expunge.methods.wga import WGA
from perf.model import PAD

IGNORE = -100
Inputs = dict[str, Tensor]


class Plain:
    """A plain training that runs one step per call.

    Args:
        model: The model; all weights have gradients.
        method: The method, whose settings are used.
        rows: Encoded rows by set.
        lr: Learning rate.
        batch_size: Rows of each set in a step.
        target: (D,) control vector of RMU.
        seed: Seed of the order of rows.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        rows: Mapping[str, list[Encoded]],
        *,
        lr: float,
        batch_size: int,
        target: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.method, self.rows, self.batch_size = model, method, rows, batch_size
        self.rng = np.random.default_rng(seed)
        needs_reference = isinstance(method, NPO | IdkDPO | UNDIAL | RMU) or getattr(method, "retain", "") == "kl"
        self.reference = copy.deepcopy(model).eval().requires_grad_(False) if needs_reference else None
        self.target = target
        trained = list(model.parameters())
        if isinstance(method, RMU):
            layers = model.model.layers
            trained = [layers[index].mlp.down_proj.weight for index in method.update_layers]
        self.optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)
        self.trained = trained
        self.loss_of: Callable[..., Tensor] = LOSSES[type(method)]
        self.num_tokens = self.num_padded = 0

    def step(self) -> float:
        """Run one optimiser step and return its loss."""
        forget = self.rng.choice(len(self.rows["forget"]), self.batch_size, replace=False)
        retain = self.rng.choice(len(self.rows.get("retain", ())), self.batch_size, replace=False)
        indices = {"forget": forget, PREFERRED: forget, "retain": retain}
        inputs = {name: self.collate([rows[i] for i in indices[name]]) for name, rows in self.rows.items()}
        loss = self.loss_of(self, inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.model.zero_grad()
        return float(loss.detach())

    def collate(self, rows: list[Encoded]) -> Inputs:
        """Return rows padded to the longest one, with labels on the answers only."""
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), PAD)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
            labels[index, row.answer_start : len(row.ids)] = torch.tensor(row.ids[row.answer_start :])
        self.num_tokens += int(mask.sum())
        self.num_padded += mask.numel()
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def reference_logits(self, inputs: Inputs) -> Tensor:
        """Return (B, L, V) logits of the frozen reference."""
        assert self.reference is not None
        with torch.no_grad():
            logits: Tensor = self.reference(**inputs).logits
        return logits

    def retain_loss(self, inputs: Inputs) -> Tensor:
        """Return the cross-entropy, or the KL from the reference at the positions that predict answer tokens."""
        output = self.model(**inputs)
        if self.method.retain != "kl":  # type: ignore[attr-defined]
            loss: Tensor = output.loss
            return loss
        reference = self.reference_logits(inputs)
        kl = F.kl_div(
            F.log_softmax(output.logits, -1), F.log_softmax(reference, -1), reduction="none", log_target=True
        ).sum(-1)
        return kl[:, :-1][inputs["labels"][:, 1:] != IGNORE].mean()


def token_logp(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B, L - 1) log-probability of each next token, 0 where there is no label."""
    return -F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE, reduction="none")


def row_logp(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) summed log-probability of each answer."""
    return token_logp(logits, labels).sum(-1)


def _with_retain(forget: Callable[[Plain, Inputs], Tensor]) -> Callable[[Plain, dict[str, Inputs]], Tensor]:
    def loss(plain: Plain, inputs: dict[str, Inputs]) -> Tensor:
        method: Any = plain.method
        retain = plain.retain_loss(inputs["retain"])
        return method.forget_weight * forget(plain, inputs["forget"]) + method.retain_weight * retain

    return loss


def _graddiff(plain: Plain, inputs: Inputs) -> Tensor:
    loss: Tensor = -plain.model(**inputs).loss
    return loss


def _simnpo(plain: Plain, inputs: Inputs) -> Tensor:
    method: Any = plain.method
    labels = inputs["labels"]
    mean_logp = row_logp(plain.model(**inputs).logits, labels) / (labels[:, 1:] != IGNORE).sum(-1)
    return -(2 / method.beta) * F.logsigmoid(-method.beta * (mean_logp + method.gamma)).mean()


def _wga(plain: Plain, inputs: Inputs) -> Tensor:
    method: Any = plain.method
    logp = token_logp(plain.model(**inputs).logits, inputs["labels"])[inputs["labels"][:, 1:] != IGNORE]
    return (logp.detach().exp() ** method.beta * logp).mean()


def _satimp(plain: Plain, inputs: Inputs) -> Tensor:
    method: Any = plain.method
    logp = token_logp(plain.model(**inputs).logits, inputs["labels"])[inputs["labels"][:, 1:] != IGNORE]
    p = logp.detach().exp()
    return (p**method.beta1 * (1 - p) ** method.beta2 * logp).mean()


def _npo(plain: Plain, inputs: Inputs) -> Tensor:
    method: Any = plain.method
    logp = row_logp(plain.model(**inputs).logits, inputs["labels"])
    reference_logp = row_logp(plain.reference_logits(inputs), inputs["labels"])
    return -(2 / method.beta) * F.logsigmoid(-method.beta * (logp - reference_logp)).mean()


def _idkdpo(plain: Plain, inputs: dict[str, Inputs]) -> Tensor:
    method: Any = plain.method
    margins = []
    for name in (PREFERRED, "forget"):
        logp = row_logp(plain.model(**inputs[name]).logits, inputs[name]["labels"])
        margins.append(logp - row_logp(plain.reference_logits(inputs[name]), inputs[name]["labels"]))
    forget = -(2 / method.beta) * F.logsigmoid(method.beta * (margins[0] - margins[1])).mean()
    loss: Tensor = method.forget_weight * forget + method.retain_weight * plain.retain_loss(inputs["retain"])
    return loss


def _undial(plain: Plain, inputs: Inputs) -> Tensor:
    method: Any = plain.method
    logits, labels = plain.model(**inputs).logits[:, :-1], inputs["labels"][:, 1:]
    reference = plain.reference_logits(inputs)[:, :-1]
    adjusted = reference - method.beta * F.one_hot(labels.clamp(min=0), reference.shape[-1])
    values = F.cross_entropy(logits.transpose(1, 2), adjusted.softmax(-1).transpose(1, 2), reduction="none")
    return values[labels != IGNORE].mean()


def _rmu(plain: Plain, inputs: dict[str, Inputs]) -> Tensor:
    method: Any = plain.method

    def hidden(model: Any, name: str) -> Tensor:
        """Return the output of the steered layer from a full forward pass."""
        outputs: list[Tensor] = []
        layer = model.model.layers[method.layer]
        hook = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
        model(**inputs[name])
        hook.remove()
        return outputs[0]

    steered, retained = hidden(plain.model, "forget"), hidden(plain.model, "retain")
    with torch.no_grad():
        frozen = hidden(plain.reference, "retain")
    forget = F.mse_loss(steered, plain.target.expand_as(steered), reduction="none").mean(-1)  # type: ignore[union-attr]
    retain = F.mse_loss(retained, frozen, reduction="none").mean(-1)
    masks = {name: inputs[name]["labels"] != IGNORE for name in ("forget", "retain")}
    loss: Tensor = forget[masks["forget"]].mean() + method.alpha[0] * retain[masks["retain"]].mean()
    return loss


LOSSES: dict[type[Method], Callable[..., Tensor]] = {
    GradDiff: _with_retain(_graddiff),
    SimNPO: _with_retain(_simnpo),
    WGA: _with_retain(_wga),
    SatImp: _with_retain(_satimp),
    NPO: _with_retain(_npo),
    UNDIAL: _with_retain(_undial),
    IdkDPO: _idkdpo,
    RMU: _rmu,
}
"""Loss of each method from a training and its inputs by set."""

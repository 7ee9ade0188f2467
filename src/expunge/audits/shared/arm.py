"""One model of an audit, as attacks use it: measured, edited, trained on a copy, and next to another model."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from expunge.audits.shared.outcomes import utility_rows
from expunge.data.sets import Sets
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.metrics.probability import probability
from expunge.modeling.adapters import causal_lm
from expunge.modeling.fsdp import fsdp_root
from expunge.probes.cache import ProbeCache
from expunge.probes.requests import ScoreRequest
from expunge.probes.session import Session
from expunge.records import ROLE_NAMES

Opener = Callable[[str], Any]
"""Role -> the model of that arm, freshly loaded."""
Sessions = Callable[[Any, str, Any], Session]
"""(model, label, facts) -> a session; results are cached by weights and facts."""


class Arm:
    """One model of an audit: the audited model, or a control.

    At most two models are in memory: this one, and one more while `edited`, `trainable_copy` or `other` is open.

    Args:
        role: 'unlearned', 'target', 'retain' or 'base'.
        names: Role -> folder or hub id of all arms of the audit.
        sets: Data of the audit.
        template: Converts questions and answers to tokens.
        opener: Loads the model of an arm.
        sessions: Opens a session with a model.
    """

    def __init__(
        self,
        role: str,
        names: Mapping[str, str],
        sets: Sets,
        template: Template,
        *,
        opener: Opener,
        sessions: Sessions,
    ) -> None:
        self.role, self.names, self.sets, self.template = role, dict(names), sets, template
        self._opener, self._sessions = opener, sessions
        self._model: Any = None
        self._session: Session | None = None

    @property
    def name(self) -> str:
        """Folder or hub id of the model."""
        return self.names[self.role]

    @property
    def label(self) -> str:
        """Name of the model in messages, such as 'the unlearned model'."""
        return f"the {ROLE_NAMES[self.role]}"

    @property
    def model(self) -> Any:
        """The model in evaluation mode; loaded when it is first used."""
        if self._model is None:
            self._model = self._opener(self.role)
        return self._model

    def session(self) -> Session:
        """Return the session with the unchanged model."""
        if self._session is None:
            self._session = self._sessions(self.model, self.label, None)
        return self._session

    def hooked_session(self, attack: Any) -> Session:
        """Return a session for a model on which the caller has set hooks, which change results but not weights.

        Args:
            attack: JSON-serialisable values that identify the attack: its name and all settings that matter. Results
                are cached separately for each value.
        """
        if attack is None:
            raise ValueError("a hooked model needs an identity of its own in the cache")
        return self._sessions(self.model, self.label, attack)

    def session_with(self, model: Any) -> Session:
        """Return a session with another model, such as a trained copy; results are not cached."""
        return dataclasses.replace(self._sessions(model, self.label, None), cache=ProbeCache(None, None))

    @contextlib.contextmanager
    def edited(self, edit: Callable[[torch.nn.Module], None]) -> Iterator[Session]:
        """Change the weights in place, yield a session with the changed model, and restore the weights.

        Args:
            edit: Changes the parameters of the causal language model in place, without gradients. An adapter is
                merged first, so that the edit sees the weights that the model computes with.
        """
        model = self.merged()
        saved = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        try:
            with torch.no_grad():
                edit(model)
            yield self._sessions(model, self.label, None)
        finally:
            model.load_state_dict(saved)

    @contextlib.contextmanager
    def trainable_copy(self) -> Iterator[Any]:
        """Yield a copy of the model with float32 weights, in training mode.

        Small learning rates would vanish in half precision.
        """
        model = copy.deepcopy(self.merged()).float()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        model.train()
        try:
            yield model
        finally:
            del model
            _free_memory()

    @contextlib.contextmanager
    def other(self, role: str) -> Iterator[Arm]:
        """Yield another arm, whose model is released afterwards; an audit names it in its `needs` or `uses`.

        Raises:
            IncompatibleError: The audit has no such arm.
        """
        if role not in self.names:
            raise IncompatibleError(
                f"this attack needs the {ROLE_NAMES[role]}, and none was given.",
                fix=f"Add --{'retain-model' if role == 'retain' else role} FOLDER.",
            )
        arm = Arm(role, self.names, self.sets, self.template, opener=self._opener, sessions=self._sessions)
        try:
            yield arm
        finally:
            arm.release()

    def utility(self, session: Session | None = None) -> float | None:
        """Return the mean probability of the answers of up to 100 retain rows; None without a retain set.

        Args:
            session: A session with the attacked model; None for the unchanged one.
        """
        rows = utility_rows(self.sets)
        if not rows:
            return None
        scores = (session or self.session()).score(
            [ScoreRequest("retain", index, "utility", row.question, row.answer) for index, row in enumerate(rows)]
        )
        if not scores:
            return None
        return float(probability([-float(scored.logp.mean()) for scored in scores.values()]).mean())

    def release(self) -> None:
        """Release the model's memory."""
        self._model, self._session = None, None
        _free_memory()

    def merged(self) -> Any:
        """Return the causal language model, with an adapter merged into its weights.

        Raises:
            IncompatibleError: The model is sharded.
        """
        if fsdp_root(self.model) is not None:
            raise IncompatibleError(
                "this attack changes weights, which FSDP shards over processes.",
                fix="Audit the saved model in one process.",
            )
        if hasattr(self.model, "merge_and_unload"):
            self._model, self._session = self.model.merge_and_unload(), None
        return causal_lm(self.model)


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

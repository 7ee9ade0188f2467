"""The models of a run that the chat asks, loaded when they are first asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from expunge.config.load import parse
from expunge.config.recipe import Model, Prompt
from expunge.data.templates import Template
from expunge.errors import DataError, UserError, nearest
from expunge.modeling.adapters import causal_lm
from expunge.modeling.load import context_length, load_tokenizer, pad_id_of
from expunge.modeling.opening import check_same_tokens, measuring_template, open_model
from expunge.probes.generation import TokenSampler, generate_by
from expunge.probes.scoring import score
from expunge.probes.session import end_ids
from expunge.records import ROLE_NAMES
from expunge.report.load import LoadedRun
from expunge.runs.finished import RunModels, models_of_run
from expunge.view.request import ChatRequest

Send = Callable[[dict[str, Any]], None]
_BATCH_TOKENS = 4096


class ChatModels:
    """The models of one run, with the prompt of its recipe.

    Only the sections `model` and `prompt` of the recipe are used: a recipe can name Python files, and opening a run in
    the viewer must not run them.

    Args:
        run: The run.

    Raises:
        UserError: It is not finished, or its models need remote code.
    """

    def __init__(self, run: LoadedRun) -> None:
        self._run = run
        self._config = parse(run.recipe.get("model") or {}, Model, source=f"model in {run.folder}/recipe.yaml")
        prompt = run.recipe.get("prompt")
        self._prompt = parse(prompt, Prompt, source=f"prompt in {run.folder}/recipe.yaml") if prompt else None
        if self._config.trust_remote_code:
            raise UserError(
                "the models of this run need code from their repositories (model.trust_remote_code), which the viewer "
                "does not run.",
                fix="Use expunge evaluate.",
            )
        self._models: RunModels = models_of_run(run.folder, self._config)
        name = self._models.names["unlearned"]
        self._tokenizer = load_tokenizer(name)
        self._open: dict[str, Any] = {}

    def is_of(self, run: LoadedRun) -> bool:
        """Return whether these are the models of a run, which has not changed since they were opened."""
        return self._run is run

    def answer(self, role: str, request: ChatRequest, send: Send) -> None:
        """Generate the answer of one model, and compute the probability of the true answer if there is one.

        Args:
            role: 'target', 'unlearned' or 'retain'.
            request: The prompt.
            send: Called with each event of `Chat.start`.

        Raises:
            UserError: The run has no such model, it cannot be loaded, or the prompt does not fit into its context.
        """
        model = self._model(role, send)
        template = measuring_template(self._tokenizer, self._prompt, model)
        if request.answer:
            send({"state": "scoring the true answer", **_probability(model, template, request)})
        send({"state": "answering"})
        sampler = _Streamed(request, lambda ids: send({"text": template.decode(ids).rstrip("\ufffd")}))
        (ids,) = generate_by(
            [causal_lm(model)],
            lambda batch: sampler,
            [template.prompt_ids(request.question)],
            max_new_tokens=[request.max_new_tokens],
            eos_ids=end_ids(causal_lm(model), template),
            pad_id=pad_id_of(self._tokenizer),
            batch_tokens=_BATCH_TOKENS,
            title=f"Answering as the {ROLE_NAMES[role]}",
        )
        if ids is None:
            raise DataError(
                "the prompt fills the model's context.", fix=f"Shorten it below {context_length(model.config)} tokens."
            )
        send({"text": template.decode(ids), "done": True, "cut": len(ids) >= request.max_new_tokens})

    def _model(self, role: str, send: Send) -> Any:
        if role not in self._open:
            names = self._models.names
            if role not in names:
                stored = role == "retain" and self._models.stored_retain_model
                reason = "is a stored evaluation, not a model" if stored else "is not part of this run"
                raise UserError(f"the {ROLE_NAMES[role]} {reason}.", allowed=nearest(role, names))
            send({"state": "loading the model"})
            revision = self._models.revisions.get(role)
            template = measuring_template(self._tokenizer, self._prompt)
            check_same_tokens(names[role], ROLE_NAMES[role], self._config, template, revision)
            self._open[role] = open_model(self._config, names[role], self._tokenizer, revision=revision).eval()
        return self._open[role]


def _probability(model: Any, template: Template, request: ChatRequest) -> dict[str, Any]:
    """Return the probability of the true answer, P(a|q), and its geometric mean per token, P(a|q)^(1/|a|).

    Raises:
        DataError: Question and answer do not fit into the model's context.
    """
    row = template.encode(request.question, request.answer, "the true answer")
    (scores,) = score(causal_lm(model), [row], pad_id=pad_id_of(template.tokenizer), batch_tokens=_BATCH_TOKENS)
    total = float(scores.logp.sum())
    return {
        "log_probability": total,
        "probability_per_token": math.exp(total / len(scores)),
        "answer_tokens": len(scores),
    }


class _Streamed(TokenSampler):
    """A sampler that passes on the tokens so far after each one."""

    def __init__(self, request: ChatRequest, send: Callable[[list[int]], None]) -> None:
        super().__init__(request.temperature, [request.seed])
        # Otherwise a model's own `generate` chooses the most likely token by itself, and nothing is streamed.
        self.is_greedy = False
        self._send, self._ids = send, list[int]()

    def __call__(self, logits: Tensor, rows: Any) -> Tensor:
        chosen = super().__call__(logits, rows)
        self._ids.append(int(chosen[0]))
        self._send(self._ids)
        return chosen

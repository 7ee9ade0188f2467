"""AltPO: prefer false alternate answers, written by the target itself, over the forget answers."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from expunge.console import is_main_process
from expunge.data.sets import Row, RowSet, make_set
from expunge.distributed import map_over_ranks, wait
from expunge.errors import DataError, IncompatibleError
from expunge.methods.base import Preparation
from expunge.methods.bases.preference import PREFERRED, PreferenceMethod
from expunge.modeling.adapters import causal_lm
from expunge.modeling.load import pad_id_of
from expunge.probes.generation import generate
from expunge.probes.session import end_ids
from expunge.rundir import fingerprint, write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.data.templates import Encoded

REQUEST = (
    "Here is a question with its answer.\n"
    "Question: {question}\n"
    "Answer: {answer}\n"
    "Make something up: answer the same question once more, in another form of words, so that every fact in the "
    "answer is a different one and still believable. Keep to what the question says."
)
"""Prompt that asks the target for an alternate answer."""
LEAD_IN = "Alternate answer:"
"""Beginning of the target's reply, appended to the prompt."""
MAX_ATTEMPTS = 4
"""Attempts per alternate; one that is empty, too long or equal to the true answer is sampled again."""


class AltPO(PreferenceMethod):
    """Alternate preference optimisation.

    L_forget = -(2 / beta) * mean_rows log sigmoid(beta * [(log pi(y_a|x) - log pi_ref(y_a|x))
                                                           - (log pi(y|x) - log pi_ref(y|x))])

    y_a is one of `num_alternates` answers that the target writes for each question before training. The prompt shows
    it the question and the true answer; its wording is ours. As in the official code, every alternate is a separate
    row, so one epoch passes each forget answer `num_alternates` times.

    The model stays fluent and answers with something plausible and false. A target too small to follow the prompt
    writes near-copies of the truth, and then little is forgotten: read `prepared/alternates.json`.
    """

    paper: ClassVar[str] = "Mekala et al. 2024, arXiv:2409.13474"

    num_alternates: int = Field(default=5, ge=1)
    """Alternate answers per forget row."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of the alternates."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Maximum length of an alternate in tokens."""

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Return one pair of forget answer and alternate per alternate; the target writes them unless cached.

        Raises:
            IncompatibleError: A forget row has no question, or the target writes no usable alternate for it.
        """
        forget = preparation.sets.forget
        alternates = self._alternates(preparation)

        def rows_with(answer_of: Any) -> list[Row]:
            return [
                dataclasses.replace(
                    row,
                    id=f"{row.id}#{k}",
                    answer=answer_of(row, k),
                    paraphrased_question="",
                    paraphrased_answer="",
                    perturbed_answers=(),
                )
                for row in forget
                for k in range(self.num_alternates)
            ]

        return {
            "forget": make_set("forget", rows_with(lambda row, k: row.answer)),
            PREFERRED: make_set(PREFERRED, rows_with(lambda row, k: alternates[row.id][k])),
        }

    def _alternates(self, preparation: Preparation) -> dict[str, list[str]]:
        """Return the alternates per row id: read from `alternates.json`, or written by the target and saved there."""
        path = preparation.folder / "alternates.json"
        settings = {"num_alternates": self.num_alternates, "temperature": self.temperature}
        inputs = fingerprint(
            [settings, self.max_new_tokens, preparation.seed, preparation.sets.forget.hash, REQUEST, LEAD_IN]
        )
        cached: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        # All processes must have read the file, and take the same branch, before rank 0 writes it.
        wait()
        if cached.get("fingerprint") == inputs:
            return dict(cached["alternates"])
        alternates = self._write_alternates(preparation, list(preparation.sets.forget))
        if is_main_process():
            content = {"fingerprint": inputs, "seed": preparation.seed, **settings, "alternates": alternates}
            write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return alternates

    def _write_alternates(self, preparation: Preparation, rows: Sequence[Row]) -> dict[str, list[str]]:
        """Sample each alternate until it is usable; after the last attempt, repeat the row's usable ones instead.

        Raises:
            IncompatibleError: A row has no question, or no alternate for it is usable.
        """
        plain = next((row.id for row in rows if not row.question), None)
        if plain is not None:
            raise IncompatibleError(
                f"row {plain} is plain text without a question, so it has no alternate answer.",
                fix="Use a method that works on any text, such as npo or simnpo.",
            )
        model = preparation.open_target()
        usable: dict[tuple[int, int], str] = {}
        for attempt in range(MAX_ATTEMPTS):
            pending = [(i, k) for i in range(len(rows)) for k in range(self.num_alternates) if (i, k) not in usable]
            if not pending:
                break
            texts = map_over_ranks(functools.partial(self._sample, preparation, model, rows, attempt), pending)
            for (i, k), text in zip(pending, texts, strict=True):
                if _is_usable(preparation, rows[i], text):
                    usable[i, k] = text
        alternates = {}
        for i, row in enumerate(rows):
            texts = [usable[i, k] for k in range(self.num_alternates) if (i, k) in usable]
            if not texts:
                raise IncompatibleError(
                    f"the target wrote no usable alternate answer to row {row.id} in "
                    f"{MAX_ATTEMPTS * self.num_alternates} attempts.",
                    fix="Raise max_new_tokens or temperature, or use idkdpo, which needs no alternates.",
                )
            alternates[row.id] = [texts[k % len(texts)] for k in range(self.num_alternates)]
        return alternates

    def _sample(
        self,
        preparation: Preparation,
        model: Any,
        rows: Sequence[Row],
        attempt: int,
        pending: Sequence[tuple[int, int]],
    ) -> list[str]:
        """Sample one text for each pending (row index, alternate number)."""
        template = preparation.template
        prompts = [_prompt(template, rows[i]) for i, _ in pending]
        answers = generate(
            model,
            prompts,
            max_new_tokens=[self.max_new_tokens] * len(prompts),
            eos_ids=end_ids(causal_lm(model), template),
            pad_id=pad_id_of(template.tokenizer),
            batch_tokens=2 * preparation.batch_tokens,
            title="Writing alternates",
            temperature=self.temperature,
            # A seed per text, so that a text does not depend on the batch or the number of processes.
            seeds=[int(fingerprint([preparation.seed, rows[i].id, k, attempt]), 16) for i, k in pending],
        )
        return [template.decode(answer) if answer else "" for answer in answers]


def _prompt(template: Any, row: Row) -> list[int]:
    request = REQUEST.format(question=row.question, answer=row.answer)
    return list(template.prompt_ids(request, lead_in=LEAD_IN))


def _is_usable(preparation: Preparation, row: Row, text: str) -> bool:
    """Return whether a text is an answer, differs from the true one, and fits into a training row."""
    if not text or text == row.answer.strip():
        return False
    try:
        preparation.template.encode(row.question, text, row.id)
    except DataError:
        return False
    return True

"""AltPO: prefer other, made-up answers, which the target writes itself, over the forget answer."""

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
from expunge.modeling.load import pad_id_of
from expunge.probes.generation import generate
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
LEAD_IN = "Alternate answer:"
"""How the target's reply is begun for it."""
MAX_DRAWS = 4
"""How often an alternate is drawn before one that is empty, too long or the true answer is given up."""


class AltPO(PreferenceMethod):
    """Alternate preference optimisation.

    L_forget = -(2 / beta) * mean_rows log sigmoid(beta * [(log pi(y_a|x) - log pi_ref(y_a|x))
                                                           - (log pi(y|x) - log pi_ref(y|x))])

    y_a is one of `num_alternates` answers that the target writes for each question before training, from a prompt in
    our own words that shows question and true answer. Every alternate is a row of its own, as in the official code,
    so one epoch passes each forget row `num_alternates` times. The model stays fluent and answers with something
    plausible and false; a target too small to follow the request writes near-copies of the truth, and then little is
    forgotten: read `prepared/alternates.json`.
    """

    paper: ClassVar[str] = "Mekala et al. 2024, arXiv:2409.13474"

    num_alternates: int = Field(default=5, ge=1)
    """Alternate answers per forget row."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature at which the target writes them."""
    max_new_tokens: int = Field(default=200, ge=1)
    """Longest alternate in tokens."""

    def prepare(self, preparation: Preparation) -> dict[str, RowSet | list[Encoded]]:
        """Let the target write alternates, or read those that it wrote before, and pair them with the forget rows."""
        forget, texts = preparation.sets.forget, self._alternates(preparation)
        pairs = [(row, number) for row in forget for number in range(self.num_alternates)]
        return {
            "forget": make_set("forget", [_row(row, number, row.answer) for row, number in pairs]),
            PREFERRED: make_set(PREFERRED, [_row(row, number, texts[row.id][number]) for row, number in pairs]),
        }

    def _alternates(self, preparation: Preparation) -> dict[str, list[str]]:
        path, rows = preparation.folder / "alternates.json", list(preparation.sets.forget)
        settings = {"num_alternates": self.num_alternates, "temperature": self.temperature}
        made_from = fingerprint(
            [settings, self.max_new_tokens, preparation.seed, preparation.sets.forget.hash, REQUEST, LEAD_IN]
        )
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        # Nobody writes before everybody has looked.
        wait()
        if kept.get("made_from") == made_from:
            return dict(kept["alternates"])
        texts = self._write(preparation, rows)
        content = {"made_from": made_from, "seed": preparation.seed, **settings, "alternates": texts}
        if is_main_process():
            write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return texts

    def _write(self, preparation: Preparation, rows: Sequence[Row]) -> dict[str, list[str]]:
        """Draw alternates until each is usable; one that never was is filled up with the row's others.

        Raises:
            IncompatibleError: The target wrote no usable alternate for a row.
        """
        plain = next((row.id for row in rows if not row.question), None)
        if plain is not None:
            raise IncompatibleError(
                f"row {plain} is plain text without a question, so it has no alternate answer.",
                fix="Take a method that works on any text, such as npo or simnpo.",
            )
        model = preparation.open_target()
        found: dict[tuple[int, int], str] = {}
        for draw in range(MAX_DRAWS):
            places = [(i, k) for i in range(len(rows)) for k in range(self.num_alternates) if (i, k) not in found]
            if not places:
                break
            texts = map_over_ranks(functools.partial(self._draw, preparation, model, rows, draw), places)
            for (i, k), text in zip(places, texts, strict=True):
                if _usable(preparation, rows[i], text):
                    found[i, k] = text
        result = {}
        for i, row in enumerate(rows):
            own = [found[i, k] for k in range(self.num_alternates) if (i, k) in found]
            if not own:
                raise IncompatibleError(
                    f"the target wrote no alternate answer to row {row.id} in {MAX_DRAWS * self.num_alternates} tries.",
                    fix="Raise max_new_tokens or temperature, or take idkdpo, which needs no alternates.",
                )
            result[row.id] = [own[k % len(own)] for k in range(self.num_alternates)]
        return result

    def _draw(
        self, preparation: Preparation, model: Any, rows: Sequence[Row], draw: int, places: Sequence[tuple[int, int]]
    ) -> list[str]:
        template = preparation.template
        prompts = [_prompt(template, rows[i]) for i, _ in places]
        answers = generate(
            model,
            prompts,
            max_new_tokens=[self.max_new_tokens] * len(prompts),
            eos_ids=template.end_ids,
            pad_id=pad_id_of(template.tokenizer),
            batch_tokens=2 * preparation.batch_tokens,
            title="Writing alternates",
            temperature=self.temperature,
            seeds=[int(fingerprint([preparation.seed, rows[i].id, k, draw]), 16) for i, k in places],
        )
        return [template.decode(answer) if answer else "" for answer in answers]


def _prompt(template: Any, row: Row) -> list[int]:
    request = REQUEST.format(question=row.question, answer=row.answer)
    return list(template.prompt_ids(request, lead_in=LEAD_IN))


def _usable(preparation: Preparation, row: Row, text: str) -> bool:
    if not text or text == row.answer.strip():
        return False
    try:
        preparation.template.encode(row.question, text, row.id)
    except DataError:
        return False
    return True


def _row(row: Row, number: int, answer: str) -> Row:
    return dataclasses.replace(
        row,
        id=f"{row.id}#{number}",
        answer=answer,
        paraphrased_question="",
        paraphrased_answer="",
        perturbed_answers=(),
    )

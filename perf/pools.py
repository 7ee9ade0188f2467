"""Pools of small models that know and that never knew some people, and the attempts of audits on them.

Every model is a fine-tuned copy of one model that never saw the forget set. A model that knows learns the true answers
to questions about all forget people, in the words of TOFU's paraphrased answers; a model that never knew learns as many
false answers, which TOFU has in the same words with other facts. Both also learn half as many retain rows. So the two
pools differ in knowledge, and neither in questions, style, length nor amount of text.

Audits compare the true answer with false ones too. They are given the first `SHOWN` false answers of a row, and the
models that never knew learn one of the others.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.audits.base import AUDITED, Attempt, Audit
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.fine_tuning import FineTuning, Recipe, encode_rows
from expunge.audits.shared.outcomes import forget_rows, spread
from expunge.config.recipe import Measure, Prompt
from expunge.data.sets import Row, RowSet, Sets, data_hashes
from expunge.data.templates import Template
from expunge.modeling.load import context_length, load_tokenizer, local_digest, pad_id_of
from expunge.rundir import fingerprint, replace_folder
from expunge.runs.attempts import AttemptStore, with_seconds
from expunge.runs.evaluator import Evaluator
from perf.evaluation import load

KNOWS, NEVER = "knows", "never knew"
SHOWN = 3
"""False answers per row that audits are given."""
BATCH = 8
UTILITY_ROWS = 20


@dataclass(frozen=True)
class PoolModel:
    """How one model of a pool is trained."""

    pool: str
    number: int
    epochs: int
    lr: float

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.pool.replace(' ', '-')}-{self.number}"


def audited_sets(sets: Sets, num_rows: int) -> tuple[Sets, dict[str, Row]]:
    """Return the data for audits, and what the models are trained on.

    Args:
        sets: Data with paraphrased answers and more than `SHOWN` false ones.
        num_rows: Forget rows, spread over the people.

    Returns:
        Sets with `SHOWN` false answers per row, and row id -> the row with all false answers.
    """
    usable = [row for row in forget_rows(sets) if row.paraphrased_answer and len(row.perturbed_answers) > SHOWN]
    chosen = spread(usable, num_rows)
    rows = RowSet("forget", tuple(replace(row, perturbed_answers=row.perturbed_answers[:SHOWN]) for row in chosen))
    evaluation = {**sets.evaluation, "forget": rows}
    if "retain" in evaluation:
        # They are scored after every change of a model, to measure its utility.
        evaluation["retain"] = RowSet("retain", spread(evaluation["retain"].rows, UTILITY_ROWS))
    return replace(sets, forget=rows, evaluation=evaluation), {row.id: row for row in chosen}


@dataclass(frozen=True)
class Pools:
    """Trains models and runs audits on them; what is finished is kept in a folder.

    Args:
        start: Folder of the model of which all models are copies.
        sets: Data with paraphrased and false answers.
        num_rows: Forget rows to learn and to audit.
        work: Folder of models and attempts.
    """

    start: str
    sets: Sets
    num_rows: int
    work: Path

    def train(self, model: PoolModel) -> Path:
        """Train a model, unless it is finished, and return its folder."""
        identity = [local_digest(self.start), vars(model), self.num_rows, data_hashes(self.sets)]
        folder = self.work / "models" / f"{model.name}-{fingerprint(identity)}"
        if folder.is_dir():
            return folder
        started = time.monotonic()
        tokenizer, trained = load_tokenizer(self.start), load(self.start)
        template = self._template(tokenizer, trained)
        rows = encode_rows(self._training_rows(model), template, max_length=template.max_length, answer_only=True)
        recipe = Recipe(model.lr, BATCH, seed=_seed(model))
        tuning = FineTuning(trained, rows, recipe, pad_id=pad_id_of(tokenizer), title=model.name)
        tuning.train_until(math.ceil(model.epochs * len(rows) / tuning.batch_size))
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        trained.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        replace_folder(unfinished, folder)
        print(f"{model.name}: trained for {tuning.steps} steps in {time.monotonic() - started:.0f} s", flush=True)
        return folder

    def attempts(self, folder: Path, controls: dict[str, Path], audits: Sequence[Audit]) -> dict[str, list[Attempt]]:
        """Return audit -> attempts on one model; finished stages are read from the folder.

        Args:
            folder: The model.
            controls: Role -> model, of the controls that the attacks themselves need.
            audits: The audits.
        """
        sets, _ = audited_sets(self.sets, self.num_rows)
        names = {AUDITED: str(folder), **{role: str(path) for role, path in controls.items()}}
        tokenizer = load_tokenizer(self.start)
        template = self._template(tokenizer, load(self.start))
        evaluator = Evaluator(sets, template, Measure(), cache=None)
        arm = Arm(AUDITED, names, sets, template, opener=lambda role: load(names[role]), sessions=evaluator.session)
        store = AttemptStore(self.work / "attempts")
        found: dict[str, list[Attempt]] = {}
        for audit in audits:
            used = {role: names[role] for role in (AUDITED, *audit.controls_needed(), *audit.uses) if role in names}
            identity = {
                "audit": audit.spec(),
                "models": {role: local_digest(name) for role, name in used.items()},
                "data": data_hashes(sets),
            }
            stages = audit.stages(sets)
            found[audit.key] = [
                attempt
                for number, stage in enumerate(stages, start=1)
                for attempt in store.attempts(
                    f"{folder.name}-{audit.key}-{number}",
                    {**identity, "stage": stage},
                    lambda audit=audit, stage=stage: _run(audit, arm, stage),  # type: ignore[misc]
                )
            ]
        arm.release()
        return found

    def _template(self, tokenizer: Any, model: Any) -> Template:
        style = "chat" if tokenizer.chat_template else "plain"
        return Template(tokenizer, Prompt(style=style), context_length(model.config))

    def _training_rows(self, model: PoolModel) -> list[Row]:
        _, rows = audited_sets(self.sets, self.num_rows)
        rng = random.Random(f"{model.name}/{_seed(model)}")
        answered = [
            replace(
                row, answer=row.paraphrased_answer if model.pool == KNOWS else rng.choice(row.perturbed_answers[SHOWN:])
            )
            for row in rows.values()
        ]
        retain = list(self.sets.retain or ())
        return [*answered, *rng.sample(retain, min(len(answered) // 2, len(retain)))]


def _seed(model: PoolModel) -> int:
    return 2 * model.number + (model.pool == KNOWS)


def _run(audit: Audit, arm: Arm, stage: str) -> list[Attempt]:
    started = time.monotonic()
    found = with_seconds(audit.attack(arm, stage), time.monotonic() - started)
    print(f"  {Path(arm.name).name}: {audit.key} {stage} {time.monotonic() - started:.1f} s", flush=True)
    return found

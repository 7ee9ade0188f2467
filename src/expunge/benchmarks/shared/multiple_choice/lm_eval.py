"""Run lm-eval's `simple_evaluate` on a model in memory.

Imported only when a benchmark needs it, since lm-eval is an optional dependency and slow to import.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.evaluator
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import hash_string

from expunge.benchmarks.base import SampleRow
from expunge.benchmarks.shared.multiple_choice.tasks import Task
from expunge.console import progress
from expunge.data.mcq import QuestionFile
from expunge.distributed import broadcast_from_main, map_over_ranks, rank, world_size
from expunge.errors import DataError
from expunge.modeling.adapters import causal_lm
from expunge.probes.session import Session
from expunge.rundir import fingerprint

VERSION = version("lm_eval")
_DEFINITIONS = Path(lm_eval.tasks.__file__).parent
_REPLACED: list[tuple[Any, str, Callable[..., Any]]] = [
    (lm_eval.api.task, "tqdm", lambda rows, total=None: rows),
    (lm_eval.evaluator, "add_env_info", lambda storage: None),
    # It runs git, which prints "fatal: not a git repository" outside one.
    (lm_eval.evaluator, "get_git_commit_hash", lambda: None),
]


def definition(task: Task) -> dict[str, Any]:
    """Return version, data set and content hash of lm-eval's definition of a task.

    Raises:
        DataError: The installed lm-eval does not have the task.
    """
    config = _config(task, resolve=False)
    return {
        "version": (config.get("metadata") or {}).get("version"),
        # The representation of functions contains the path of the installed package.
        "definition": fingerprint(repr(sorted(config.items())).replace(str(_DEFINITIONS), "")),
        "hub_split": "test" if config.get("test_split") else "validation",
        "hub": "/".join(filter(None, (config["dataset_path"], config.get("dataset_name")))),
    }


def build(task: Task, file: QuestionFile | None, shots: QuestionFile | None) -> Any:
    """Build lm-eval's task object, with the hub's rows or local ones.

    Args:
        task: The task.
        file: Local questions; None for the hub.
        shots: Local worked examples; None without them.

    Raises:
        DataError: The hub's rows cannot be loaded.
    """
    config = _config(task, resolve=True)
    if file is None:
        try:
            return _make(config)
        except Exception as error:  # datasets raises exceptions of several packages
            raise DataError(
                f"the questions of {task.name} cannot be loaded from the hub ({config['dataset_path']}): "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}.",
                fix="Without a network give a folder of question files, such as data=<folder> with "
                f"{task.layout.stem}_test.jsonl: question, choices and answer (0 for the first choice) in each line.",
            ) from error
    sets = {"test": _dataset(task, file)} | ({} if shots is None else {"shots": _dataset(task, shots)})
    config.update(task.overrides or {})
    config.update(
        custom_dataset=lambda **_: sets,
        training_split=None,
        validation_split=None,
        test_split="test",
        fewshot_split=None if shots is None else "shots",
    )
    return _make(config)


def ask(
    session: Session,
    tasks: Sequence[tuple[Task, Any]],
    *,
    num_fewshot: int,
    limit: int | None,
    apply_chat_template: bool,
    batch_size: int,
) -> list[SampleRow]:
    """Measure the session's model with lm-eval; several processes share the questions.

    Args:
        session: The model.
        tasks: Each task with its object from `build`.
        num_fewshot: Worked examples before each question.
        limit: Number of first rows of each task to ask; None for all.
        apply_chat_template: Put prompts into the tokenizer's chat template.
        batch_size: Sequences per forward pass.

    Returns:
        One record per question, in the order of tasks and rows; `correct` is None for a question that does not fit
        into the model's context.
    """
    model = causal_lm(session.model)
    training = model.training
    try:
        with _silenced():
            results = lm_eval.evaluator.simple_evaluate(
                model=Harness(session, batch_size),
                tasks=[built for _, built in tasks],
                task_manager=TaskManager(include_defaults=False),
                num_fewshot=num_fewshot or None,
                limit=limit,
                apply_chat_template=apply_chat_template,
                bootstrap_iters=0,
                log_samples=True,
                # A measurement during training must not change the training's random numbers.
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
    finally:
        model.train(training)
    # lm-eval returns results in the first process of each machine only.
    return broadcast_from_main([row for task, built in tasks for row in _rows(task, built, results)] if results else [])


class Harness(HFLM):
    """lm-eval's model class for a model in memory, with progress, work sharing and no truncation."""

    def __init__(self, session: Session, batch_size: int) -> None:
        model = causal_lm(session.model)
        device = model.device.type
        super().__init__(
            pretrained=model,
            # lm-eval adds a padding token to a tokenizer without one.
            tokenizer=copy.deepcopy(session.tokenizer),
            batch_size=batch_size,
            max_length=session.context,
            mixed_precision_dtype=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
        )
        self._label = session.label

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-likelihood and whether greedy decoding yields it, per choice; NaN for choices that do not fit."""
        questions = [
            list(group) for _, group in itertools.groupby(requests, lambda item: (item.task_name, item.doc_id))
        ]
        num_choices = sum(map(len, questions[rank() :: world_size()]))
        with progress(f"Asking {self._label}", num_choices, "choices") as advance:
            self.cache_hook = _Advance(advance)
            answers = map_over_ranks(self._answer, questions)
        return [answer for group in answers for answer in group]

    def get_model_info(self) -> dict[str, Any]:
        """Return nothing, since lm-eval would query the hub."""
        return {}

    def _answer(self, questions: Sequence[list[Any]]) -> list[list[tuple[float, bool]]]:
        requests = [request for question in questions for request in question]
        answers = iter(super().loglikelihood(requests, disable_tqdm=True) if requests else [])
        return [list(itertools.islice(answers, len(question))) for question in questions]

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        # lm-eval would truncate the beginning of a long prompt. The last token is predicted but never an input, so one
        # token more than the context fits.
        fits = [bool(choice) and len(prompt) + len(choice) <= self.max_length + 1 for _, prompt, choice in requests]
        fitting = [request for request, fit in zip(requests, fits, strict=True) if fit]
        self.cache_hook.advance(len(requests) - len(fitting))
        answers = iter(super()._loglikelihood_tokens(fitting, disable_tqdm=True) if fitting else [])
        return [next(answers) if fit else (math.nan, False) for fit in fits]


class _Advance:
    """Progress callback in the form of lm-eval's cache hook, which is called after each answer."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self.advance(1)


def _rows(task: Task, built: Any, results: dict[str, Any]) -> list[SampleRow]:
    samples = sorted(results["samples"][task.name], key=lambda sample: int(sample["doc_id"]))
    hashes = hash_string("".join(item["doc_hash"] + item["prompt_hash"] + item["target_hash"] for item in samples))
    return [{**_row(task, built, sample), "task_hash": hashes} for sample in samples]


def _row(task: Task, built: Any, sample: dict[str, Any]) -> SampleRow:
    doc, texts = sample["doc"], sample["arguments"]
    logp = [float(answer[0]) for answer in sample["filtered_resps"]]
    scored = not any(map(math.isnan, logp))
    # WinoGrande's choices are part of the prompt, and the continuation is the same for all of them.
    choices = [prompt for prompt, _ in texts] if built.multiple_input else [choice.strip() for _, choice in texts]
    gold = built.doc_to_text(doc) if built.multiple_input else built.doc_to_target(doc)
    return {
        "set": task.name,
        "index": int(sample["doc_id"]),
        "id": sample["doc_hash"][:16],
        "group": task.group(doc),
        "question": "" if built.multiple_input else texts[0][0],
        "choices": choices,
        "gold": int(gold),
        "logp": logp,
        "correct": bool(sample["acc"]) if scored else None,
        "correct_norm": bool(sample["acc_norm"]) if scored and "acc_norm" in sample else None,
        "prompt_hash": sample["prompt_hash"],
    }


def _config(task: Task, resolve: bool) -> dict[str, Any]:
    path = _DEFINITIONS / task.definition
    if not path.is_file():
        raise DataError(
            f"lm-eval {VERSION} has no task {task.name}.",
            fix="Install the version that this package requires: pip install 'expunge[eval]'.",
        )
    return dict(load_yaml(path, resolve_func=resolve))


def _make(config: dict[str, Any]) -> Any:
    with _silenced():
        return ConfigurableTask(config=config)


def _dataset(task: Task, file: QuestionFile) -> Any:
    return datasets.Dataset.from_list([task.doc(question) for question in file.questions])


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence lm-eval's logging, progress bars and environment report, and restore Python's RNG state."""
    logger = logging.getLogger("lm_eval")
    level, bars, state = logger.level, datasets.is_progress_bar_enabled(), random.getstate()
    originals = [(module, name, getattr(module, name)) for module, name, _ in _REPLACED]
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for module, name, replacement in _REPLACED:
        setattr(module, name, replacement)
    try:
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)
        random.setstate(state)
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()

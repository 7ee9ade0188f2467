"""Time our training against the plain one, alternating in one process, and measure peak memory in a process each."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from expunge.config.recipe import Train
from expunge.data.templates import Encoded
from expunge.methods.base import Method, Objective, Start
from expunge.modeling.peak_memory import reset_peak, resident_peak
from expunge.modeling.reference import make_reference, reference_logp
from expunge.modeling.step import LossTerms, Step
from expunge.training.batching import BatchPlan
from expunge.training.job import Job
from expunge.training.trainer import train
from perf.model import METHODS, PAD, Shape, fixed_rows, model, rows_of, tofu_rows
from perf.plain import Plain

LR = 1e-5
EPOCHS = 10
"""Passes over the forget set in a published training; the cost of preparation is spread over their steps."""


class Done(Exception):
    """Raised to stop a training after enough steps."""


class Paced(Objective):
    """A method's objective that calls `after` when the gradient of a step is complete.

    From one call to the next is exactly one optimiser step.

    Args:
        inner: The method's objective.
        model: The model, whose embedded tokens are counted.
        after: Called once per optimiser step.
    """

    def __init__(self, inner: Objective, model: Any, after: Callable[[], None]) -> None:
        self._inner, self._after = inner, after
        self.num_tokens = 0
        """Real tokens of all batches."""
        self.num_run = 0
        """Tokens that the model was run on, padding included."""
        self._num_embedded = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, layer: Any, args: Any, output: Any) -> None:
        self._num_embedded += args[0].numel()

    def start(self, start: Start) -> None:
        """Start the method's objective."""
        self._inner.start(start)

    def __call__(self, step: Step) -> LossTerms:
        """Return the method's loss, and count tokens."""
        before = self._num_embedded
        terms = self._inner(step)
        self.num_run += self._num_embedded - before
        self.num_tokens += sum(int(batch.attention_mask.sum()) for batch in step.batches.values())
        return terms

    def after_backward(self, model: Any) -> None:
        """Call the method's hook."""
        self._inner.after_backward(model)

    def after_step(self, terms: dict[str, float]) -> None:
        """Call the method's hook, then `after`."""
        self._inner.after_step(terms)
        self._after()


def make_job(
    method: Method,
    built: Any,
    rows: Mapping[str, list[Encoded]],
    folder: Path,
    batch_size: int,
    after: Any,
    epochs: int = EPOCHS,
) -> Job:
    """Return our training, set up as in the unlearning stage of a run.

    Args:
        method: The unlearning method.
        built: Model to train.
        rows: Encoded rows of the sets that the method needs.
        folder: Folder for logs and checkpoints.
        batch_size: Rows of each set in a step, in one micro-batch.
        after: Called once per optimiser step.
        epochs: Passes over the forget set.
    """
    trainable = method.trainable(built)
    if trainable is not None:
        for name, parameter in built.named_parameters():
            parameter.requires_grad_(name in set(trainable))
    needs = method.needs()
    config = Train(epochs=epochs, lr=LR, batch_size=batch_size, device_batch_size=batch_size, checkpoint_epochs=epochs)
    plan = BatchPlan.of(config, rows, needs, pad_id=PAD, world_size=1, seed=0)
    return Job(
        title="Unlearning",
        model=built,
        plan=plan,
        objective=Paced(method.objective(plan.steps, plan.num_rows / plan.batch_size), built, after),
        config=config,
        folder=folder,
        seed=0,
        reference_logp={name: reference_logp(built, rows[name], PAD) for name in needs.reference_logp},
        reference=make_reference(built, needs.reference, rows, PAD, folder=folder, visited_rows=plan.visits),
    )


def run_ours(
    method: Method,
    shape: Shape,
    rows: Mapping[str, list[Encoded]],
    batch_size: int,
    after: Callable[[], None],
    epochs: int = EPOCHS,
) -> tuple[Job, float]:
    """Train until `after` raises `Done`; return the job and the seconds up to the first gradient."""
    start, first = time.perf_counter(), [0.0]

    def note_first() -> None:
        first[0] = first[0] or time.perf_counter()
        after()

    with tempfile.TemporaryDirectory() as folder:
        job = make_job(method, model(shape), rows, Path(folder), batch_size, note_first, epochs)
        with contextlib.suppress(Done):
            train(job)
    return job, first[0] - start


def make_plain(method: Method, shape: Shape, rows: Mapping[str, list[Encoded]], batch_size: int) -> Plain:
    """Return the plain training of the same model."""
    target = 2.0 * torch.nn.functional.normalize(torch.rand(shape.hidden_size), dim=0)
    return Plain(model(shape), method, rows, lr=LR, batch_size=batch_size, target=target)


def alternate(
    method: Method, shape: Shape, rows: Mapping[str, list[Encoded]], batch_size: int, pairs: int
) -> dict[str, Any]:
    """Return seconds, padding and preparation of alternating steps, without the first pair, which is warm-up."""
    plain = make_plain(method, shape, rows, batch_size)
    ours_seconds: list[float] = []
    plain_seconds: list[float] = []
    last_end = [0.0]

    def after() -> None:
        now = time.perf_counter()
        if last_end[0]:
            ours_seconds.append(now - last_end[0])
        if len(ours_seconds) > pairs:
            raise Done
        start = time.perf_counter()
        plain.step()
        last_end[0] = time.perf_counter()
        plain_seconds.append(last_end[0] - start)

    job, preparation = run_ours(method, shape, rows, batch_size, after)
    return {
        "ours_seconds": ours_seconds[1:],
        "plain_seconds": plain_seconds[1:],
        "preparation_seconds": preparation,
        "steps": job.plan.steps,
        "ours_padding": 1 - job.objective.num_tokens / job.objective.num_run,  # type: ignore[attr-defined]
        "plain_padding": 1 - plain.num_tokens / plain.num_padded,
        "tokens_per_step": plain.num_tokens / len(plain_seconds),
    }


def peak(side: str, name: str, shape: Shape, batch_size: int, steps: int, length: int = 0) -> int:
    """Return the peak bytes of a few steps above imports and rows; call it in a fresh process.

    Args:
        side: 'ours' or 'plain'.
        name: One of `METHODS`.
        shape: Sizes of the model.
        batch_size: Rows of each set in a step.
        steps: Optimiser steps.
        length: Tokens of random rows; 0 for TOFU's rows.
    """
    all_rows = fixed_rows(length, shape.vocab_size) if length else tofu_rows(shape)
    rows = rows_of(METHODS[name], all_rows)
    reset_peak()
    before = resident_peak()
    if side == "plain":
        plain = make_plain(METHODS[name], shape, rows, batch_size)
        for _ in range(steps):
            plain.step()
    else:
        count = [0]

        def after() -> None:
            count[0] += 1
            # `after` runs before the optimiser's update, so the last step ends with the next call.
            if count[0] > steps:
                raise Done

        run_ours(METHODS[name], shape, rows, batch_size, after, epochs=1)
    return resident_peak() - before


def peak_apart(side: str, name: str, shape: Shape, batch_size: int, steps: int, length: int = 0) -> int:
    """Return `peak`, measured in a new process."""
    task = {"side": side, "name": name, "batch_size": batch_size, "steps": steps, "length": length}
    result = subprocess.run(
        [sys.executable, "-m", "perf.measure", json.dumps({**task, "shape": vars(shape)})],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if result.returncode:
        sys.exit(f"The memory measurement of {name} ({side}) failed:\n{result.stderr}")
    return int(result.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """Return platform, CPU, cores, threads and torch version of this machine."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    print(peak(**{**settings, "shape": Shape(**settings["shape"])}))

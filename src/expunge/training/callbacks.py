"""Trainer callbacks: progress bar, training log, checkpoints, evaluation after each epoch, and interruption."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from expunge.console import interrupt_requested, progress
from expunge.distributed import wait
from expunge.methods.base import Objective
from expunge.records import TrainPoint
from expunge.rundir import explain_disk_errors, write_atomic

OBJECTIVE = "objective.safetensors"
"""File of the objective's state inside a checkpoint."""
COMPLETE = "complete.json"
"""Marker inside a checkpoint, written last, so that an incomplete checkpoint is never resumed from."""


class Progress(TrainerCallback):
    """Progress bar of a training; plain lines where there is no terminal."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._context: contextlib.AbstractContextManager[Callable[[int], None]] | None = None
        self._advance: Callable[[int], None] = lambda amount: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar at the step where the training starts or resumes."""
        self._context = progress(self._title, state.max_steps, "steps")
        self._advance = self._context.__enter__()
        if state.global_step:
            self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by one step, unless the user has pressed Ctrl-C, which `SaveAndStop` handles."""
        if not interrupt_requested():
            self._advance(1)

    def close(self) -> None:
        """Close the bar, however the training ended."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None


class TrainLog(TrainerCallback):
    """Writes one `TrainPoint` per optimiser step to train.jsonl; a resumed training continues the same file.

    Args:
        path: File of the log.
        epoch_of: Returns the epoch of a step.
        last_step: Returns terms, metrics and tokens of the last optimiser step (`StepTrainer.last_step`).
    """

    def __init__(self, path: Path, epoch_of: Callable[[int], float], last_step: Callable[[], dict[str, Any]]) -> None:
        self._path, self._epoch_of, self._last_step = path, epoch_of, last_step
        self._previous_time = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the lines after the step from which the training resumes."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        lines = [line for line in lines if state.global_step and _step_of(line) <= state.global_step]
        write_atomic(self._path, "".join(line + "\n" for line in lines))
        self._previous_time = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append the step that has just ended."""
        if not logs or "loss" not in logs:
            return
        last, now = self._last_step(), time.monotonic()
        point = TrainPoint(
            step=state.global_step,
            epoch=round(self._epoch_of(state.global_step), 4),
            loss=sum(last["terms"].values()),
            terms={**last["terms"], **last["metrics"]},
            num_tokens=last["num_tokens"],
            lr=logs.get("learning_rate", 0.0),
            grad_norm=logs.get("grad_norm"),
            seconds=round(now - self._previous_time, 4),
        )
        self._previous_time = now
        if not state.is_world_process_zero:
            return
        with explain_disk_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(point.model_dump_json() + "\n")


class StoppedEarly(Exception):
    """Raised when a pruner stops training after an epoch; results so far are saved."""


class SaveAndStop(TrainerCallback):
    """Saves checkpoints, evaluates at the ends of epochs, and stops on Ctrl-C or when a pruner decides so.

    Args:
        save_steps: Steps after which a checkpoint is saved.
        measure_steps: Steps after which the model is evaluated.
        measure: Evaluates the model after a step; None to not evaluate.
        measured: Returns whether the results of a step are on disk already.
        objective: The objective, whose state is saved and loaded with the checkpoint.
        stop_requested: Returns whether the user has pressed Ctrl-C in any process.
        give_up: Returns, after an evaluation that is not the last, whether to stop the training there.
    """

    def __init__(
        self,
        save_steps: set[int],
        measure_steps: set[int],
        measure: Callable[[int], None] | None,
        measured: Callable[[int], bool] | None,
        objective: Objective,
        stop_requested: Callable[[], bool],
        give_up: Callable[[int], bool] | None = None,
    ) -> None:
        self._save_steps, self._measure_steps = save_steps, measure_steps
        self._measure, self._measured, self._objective = measure, measured, objective
        self._stop_requested, self._give_up = stop_requested, give_up
        self.stopped = self.gave_up = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the objective's state, and repeat an evaluation that was interrupted after its checkpoint was saved."""
        step = state.global_step
        path = Path(args.output_dir) / f"checkpoint-{step}" / OBJECTIVE
        if path.is_file():
            self._objective.load_state(load_file(path))
        if step in self._measure_steps and self._measured is not None:
            self._evaluate(state, control, measure=not self._measured(step))
            if self.gave_up:
                # The Trainer would take one more step before it reads `control`.
                raise StoppedEarly

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Request a checkpoint, stop, or evaluate after this step."""
        if self._stop_requested() and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
        elif state.global_step in self._save_steps:
            # Evaluated in `on_save`, so that an interrupted evaluation can be repeated from the checkpoint.
            control.should_save = True
        elif state.global_step in self._measure_steps:
            self._evaluate(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete, then evaluate."""
        # All processes have written their share of the checkpoint.
        wait()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if self._objective.state():
                save_file(self._objective.state(), folder / OBJECTIVE)
            write_atomic(folder / COMPLETE, json.dumps({"step": state.global_step}))
        if state.global_step in self._measure_steps and not self.stopped:
            self._evaluate(state, control)

    def _evaluate(self, state: Any, control: Any, measure: bool = True) -> None:
        """Measure after this step, then let the pruner decide whether to stop."""
        step = state.global_step
        if measure and self._measure is not None:
            self._measure(step)
        if self._give_up is not None and step < state.max_steps and self._give_up(step):
            self.gave_up = control.should_training_stop = True


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, or None."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _step_of(line: str) -> int:
    """Return the step of a log line; a damaged line counts as later than any step and is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 60

"""What happens between optimiser steps: the log, the progress bar, saving, measuring, and stopping politely."""

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
COMPLETE = "complete.json"
"""Marker inside a saved training state: written last, so that a half-written one is never resumed from."""


class Progress(TrainerCallback):
    """A bar, or plain lines, with the loss beside it."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._context: contextlib.AbstractContextManager[Callable[[int], None]] | None = None
        self._advance: Callable[[int], None] = lambda amount: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar where training starts or goes on."""
        self._context = progress(self._title, state.max_steps, "steps")
        self._advance = self._context.__enter__()
        if state.global_step:
            self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One more step; a request to stop is left to `StopAndSave`."""
        if not interrupt_requested():
            self._advance(1)

    def close(self) -> None:
        """Take the bar away, however training ended."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None


class TrainLog(TrainerCallback):
    """Writes one `TrainPoint` per optimiser step to train.jsonl; a resumed training continues the same file."""

    def __init__(self, path: Path, epoch_of: Callable[[int], float], pop: Callable[[], dict[str, Any]]) -> None:
        self._path, self._epoch_of, self._pop = path, epoch_of, pop
        self._lines: list[str] = []
        self._before = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the lines up to the step that training continues from."""
        old = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        self._lines = [line for line in old if _step_of(line) <= state.global_step and state.global_step]
        write_atomic(self._path, "".join(line + "\n" for line in self._lines))
        self._before = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the step that just ended."""
        if not logs or "loss" not in logs:
            return
        facts, now = self._pop(), time.monotonic()
        point = TrainPoint(
            step=state.global_step,
            epoch=round(self._epoch_of(state.global_step), 4),
            loss=sum(facts["terms"].values()),
            terms={**facts["terms"], **facts["metrics"]},
            num_tokens=facts["num_tokens"],
            lr=logs.get("learning_rate", 0.0),
            grad_norm=logs.get("grad_norm"),
            seconds=round(now - self._before, 4),
        )
        self._before = now
        if not state.is_world_process_zero:
            return
        with explain_disk_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(point.model_dump_json() + "\n")


class StoppedEarly(Exception):
    """After an epoch it was decided that the rest of a training is not worth its cost; what was measured is kept."""


class SaveAndStop(TrainerCallback):
    """Saves the training state at set steps and on request, marks it complete, and measures at the ends of epochs.

    After a measurement that is not the last one it asks whether to go on.
    """

    def __init__(
        self,
        save_steps: set[int],
        measure_steps: set[int],
        measure: Callable[[int], None] | None,
        measured: Callable[[int], bool] | None,
        objective: Objective,
        stop_asked: Callable[[], bool],
        give_up: Callable[[int], bool] | None = None,
    ) -> None:
        self._save_steps, self._measure_steps = save_steps, measure_steps
        self._measure, self._measured, self._objective = measure, measured, objective
        self._stop_asked, self._give_up = stop_asked, give_up
        self.stopped = self.gave_up = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from the objective's saved state, and make up for a measurement that an interruption cut off."""
        step = state.global_step
        saved = Path(args.output_dir) / f"checkpoint-{step}" / OBJECTIVE
        if saved.is_file():
            self._objective.load_state(load_file(saved))
        if step in self._measure_steps and self._measured is not None:
            if not self._measured(step):
                self._run(step)
            self._decide(state, control)
            if self.gave_up:
                # The Trainer would make one more step before it looks at its control.
                raise StoppedEarly

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decide whether to save or stop after this step."""
        if self._stop_asked() and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
        elif state.global_step in self._save_steps:
            control.should_save = True
        elif state.global_step in self._measure_steps:
            self._run(state.global_step)
            self._decide(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The state is on disk, every process's part of it: mark it, then measure."""
        wait()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if self._objective.state():
                save_file(self._objective.state(), folder / OBJECTIVE)
            write_atomic(folder / COMPLETE, json.dumps({"step": state.global_step}))
        if state.global_step in self._measure_steps and not self.stopped:
            self._run(state.global_step)
            self._decide(state, control)

    def _decide(self, state: Any, control: Any) -> None:
        if self._give_up is not None and state.global_step < state.max_steps and self._give_up(state.global_step):
            self.gave_up = control.should_training_stop = True

    def _run(self, step: int) -> None:
        if self._measure is not None:
            self._measure(step)


def last_complete(folder: Path) -> Path | None:
    """The newest training state that was written to its end."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 60

"""Trials on a Ray cluster: one task per trial, results through the run folders on a shared file system."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from expunge.config.recipe import Recipe
from expunge.config.sweep import Sweep, parse_sweep
from expunge.console import interrupt_requested, note
from expunge.errors import Interrupted, MissingExtraError, UserError
from expunge.records.sweeps import Trial
from expunge.rundir import fingerprint, read_record, write_record
from expunge.sweeps.ranking import CannotCompare
from expunge.sweeps.trials import run_trial, trial_path

MAX_RETRIES = 3
"""Restarts of a trial whose worker is lost; it resumes from its last saved state."""
_NAMED = ("num_cpus", "num_gpus", "memory")
_CANCEL_SECONDS = 120.0


class OnRay:
    """Runs trials on a Ray cluster: `workers` at the same time, or as many as the cluster has resources for."""

    def __init__(self, sweep: Sweep, runs: Path) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("ray", "sweep", "executor: ray") from error
        self._ray, self._runs = ray, runs.resolve()
        needs = {"num_cpus": 1.0, **sweep.resources}
        self._started_here = not ray.is_initialized()
        if self._started_here:
            _connect(ray, sweep, needs["num_cpus"])
        self._options: dict[str, Any] = {name: needs[name] for name in _NAMED if name in needs}
        self._options["resources"] = {name: amount for name, amount in needs.items() if name not in _NAMED}
        # The capacity is checked even if `workers` is set: a task that fits nowhere would wait forever.
        capacity = self._capacity(needs)
        self.slots = sweep.workers or capacity
        self._tasks: dict[Any, tuple[Path, int]] = {}
        self._warm: set[str] = set()

    def submit(self, sweep: Sweep, trial: Trial, folder: Path) -> None:
        """Start a trial; what trials share is created first, by one worker alone."""
        shared = _shared_part(sweep.trial(trial.params))
        arguments = (sweep.resolved(), trial.number, str(folder.resolve()), str(self._runs), os.getcwd())
        if shared not in self._warm:
            self._unpack(self._wait_for([self._remote(_prepare_task).remote(*arguments)]))
            self._warm.add(shared)
        self._tasks[self._remote(_trial_task).remote(*arguments)] = (folder, trial.number)

    def next(self) -> Trial:
        """Wait for a trial to finish; a trial whose worker was lost too often counts as failed."""
        task = self._wait_for(list(self._tasks))
        folder, number = self._tasks.pop(task)
        path = trial_path(folder, number)
        try:
            self._unpack(task)
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            lost = read_record(path, Trial).model_copy(update={"state": "failed", "error": f"Ray: {first}"})
            write_record(path, lost)
        return read_record(path, Trial)

    def close(self) -> None:
        """Disconnect from the cluster; shut it down if it was started here."""
        if self._started_here:
            self._ray.shutdown()

    def _remote(self, function: Any) -> Any:
        return self._ray.remote(function).options(max_retries=MAX_RETRIES, retry_exceptions=False, **self._options)

    def _wait_for(self, tasks: list[Any]) -> Any:
        """Wait for any of the tasks and return it."""
        while True:
            done, _ = self._ray.wait(tasks, num_returns=1, timeout=1.0)
            if done:
                return done[0]
            if interrupt_requested():
                self._cancel(tasks)
                raise Interrupted

    def _cancel(self, tasks: list[Any]) -> None:
        """Tell every task to save its state, and wait until it has."""
        note("Asking the workers to stop.")
        for task in tasks:
            self._ray.cancel(task, force=False)
        deadline = time.monotonic() + _CANCEL_SECONDS
        self._ray.wait(tasks, num_returns=len(tasks), timeout=max(0.0, deadline - time.monotonic()))

    def _unpack(self, task: Any) -> None:
        """Raise the error of a task that ends the sweep; tasks return errors as strings, which can be pickled."""
        answer = self._ray.get(task)
        if answer == "interrupted":
            raise Interrupted
        if answer:
            raise UserError(answer)

    def _capacity(self, needs: dict[str, float]) -> int:
        total = self._ray.cluster_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        capacities = {name: total.get(names.get(name, name), 0.0) / amount for name, amount in needs.items() if amount}
        short = [name for name, capacity in capacities.items() if capacity < 1]
        if short:
            raise UserError(
                f"the cluster is too small for one trial: resources.{short[0]} is {needs[short[0]]:g}, and all nodes "
                f"together have {total.get(names.get(short[0], short[0]), 0.0):g}.",
                fix="Lower it, or connect to a larger cluster with --address.",
            )
        return max(1, int(min(capacities.values(), default=1.0)))


def _connect(ray: Any, sweep: Sweep, num_cpus: float) -> None:
    """Connect to the cluster at the sweep's address, or start one here that is large enough for its workers."""
    # Ray sends usage statistics by default; this package sends no telemetry.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if sweep.address is None:
        cores = math.ceil(sweep.workers * num_cpus) if sweep.workers else None
        ray.init(num_cpus=cores, include_dashboard=False, configure_logging=False)
        return
    try:
        ray.init(address=sweep.address, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at {sweep.address}: {str(error).splitlines()[0]}",
            fix="Give an address such as ray://host:10001, 'auto' on one of its machines, or none to start one here.",
        ) from error


def _shared_part(recipe: Recipe) -> str:
    """Return a fingerprint of the part of a recipe that comes before the unlearning."""
    data = recipe.resolved()
    return fingerprint({key: value for key, value in data.items() if key not in {"name", "method", "train"}})


def _read_trial(settings: dict[str, Any], number: int, folder: str, directory: str) -> tuple[Sweep, Trial]:
    """Return the sweep, parsed from plain data, and the trial's record on disk."""
    # The recipe's own paths are relative to where the user started the sweep.
    os.chdir(directory)
    return parse_sweep(settings), read_record(trial_path(Path(folder), number), Trial)


def _prepare_task(settings: dict[str, Any], number: int, folder: str, runs: str, directory: str) -> str:
    from expunge.runs.run import prepare_shared

    sweep, trial = _read_trial(settings, number, folder, directory)
    try:
        prepare_shared(sweep.trial(trial.params), Path(runs))
    except Interrupted:
        return "interrupted"
    except UserError:
        # The trial raises the same error, and its record states it.
        return ""
    return ""


def _trial_task(settings: dict[str, Any], number: int, folder: str, runs: str, directory: str) -> str:
    sweep, trial = _read_trial(settings, number, folder, directory)
    try:
        run_trial(sweep, trial, Path(folder), Path(runs))
    except Interrupted:
        return "interrupted"
    except CannotCompare as error:
        return str(error)
    return ""

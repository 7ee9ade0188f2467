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
from expunge.sweeps.trials import run_trial, trial_place

MAX_RETRIES = 3
"""A trial whose worker is lost is started again so often; it goes on from its last saved state."""
_NAMED = ("num_cpus", "num_gpus", "memory")
_CANCEL_SECONDS = 120.0


class OnRay:
    """Hands trials to a Ray cluster, as many at a time as `workers` says or as it has room for."""

    def __init__(self, sweep: Sweep, runs: Path) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("ray", "sweep", "executor: ray") from error
        self._ray, self._runs = ray, runs.resolve()
        needs = {"num_cpus": 1.0, **sweep.resources}
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray, sweep, needs["num_cpus"])
        self._options: dict[str, Any] = {name: needs[name] for name in _NAMED if name in needs}
        self._options["resources"] = {name: amount for name, amount in needs.items() if name not in _NAMED}
        room = self._room(needs)
        self.slots = sweep.workers or room
        self._tasks: dict[Any, tuple[Path, int]] = {}
        self._warm: set[str] = set()

    def submit(self, sweep: Sweep, trial: Trial, folder: Path) -> None:
        """Start a trial; what it shares with others is made first, once, so that no two workers make it at a time."""
        shared = _shared_part(sweep.trial(trial.params))
        arguments = (sweep.resolved(), trial.number, str(folder.resolve()), str(self._runs), os.getcwd())
        if shared not in self._warm:
            self._unpack(self._wait_for([self._remote(_prepare_task).remote(*arguments)]))
            self._warm.add(shared)
        self._tasks[self._remote(_trial_task).remote(*arguments)] = (folder, trial.number)

    def next(self) -> Trial:
        """Wait for a trial that has ended; one whose worker was lost too often counts as failed."""
        task = self._wait_for(list(self._tasks))
        folder, number = self._tasks.pop(task)
        place = trial_place(folder, number)
        try:
            self._unpack(task)
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            lost = read_record(place, Trial).model_copy(update={"state": "failed", "error": f"Ray: {first}"})
            write_record(place, lost)
        return read_record(place, Trial)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._own:
            self._ray.shutdown()

    def _remote(self, function: Any) -> Any:
        return self._ray.remote(function).options(max_retries=MAX_RETRIES, retry_exceptions=False, **self._options)

    def _wait_for(self, tasks: list[Any]) -> Any:
        """The first of some tasks to end."""
        while True:
            done, _ = self._ray.wait(tasks, num_returns=1, timeout=1.0)
            if done:
                return done[0]
            if interrupt_requested():
                self._cancel(tasks)
                raise Interrupted

    def _cancel(self, tasks: list[Any]) -> None:
        """Ask every task to save its state, and give it the time."""
        note("Asking the workers to stop.")
        for task in tasks:
            self._ray.cancel(task, force=False)
        deadline = time.monotonic() + _CANCEL_SECONDS
        self._ray.wait(tasks, num_returns=len(tasks), timeout=max(0.0, deadline - time.monotonic()))

    def _unpack(self, task: Any) -> None:
        """Raise here what a task met that ends the sweep; errors do not travel well as they are."""
        answer = self._ray.get(task)
        if answer == "interrupted":
            raise Interrupted
        if answer:
            raise UserError(answer)

    def _room(self, needs: dict[str, float]) -> int:
        total = self._ray.cluster_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        rooms = {name: total.get(names.get(name, name), 0.0) / amount for name, amount in needs.items() if amount}
        short = [name for name, room in rooms.items() if room < 1]
        if short:
            raise UserError(
                f"the cluster has no room for one trial: resources.{short[0]} is {needs[short[0]]:g}, and all nodes "
                f"together have {total.get(names.get(short[0], short[0]), 0.0):g}.",
                fix="Lower it, or connect to a larger cluster with --address.",
            )
        return max(1, int(min(rooms.values(), default=1.0)))


def _connect(ray: Any, sweep: Sweep, num_cpus: float) -> None:
    """Join the cluster at the sweep's address, or start one here with room for its workers."""
    # Ray would report how it is used; this program sends nothing to anybody.
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
    """Name of everything in a recipe that comes before the unlearning."""
    data = recipe.resolved()
    return fingerprint({key: value for key, value in data.items() if key not in {"name", "method", "train"}})


def _opened(settings: dict[str, Any], number: int, folder: str, directory: str) -> tuple[Sweep, Trial]:
    """The sweep and the trial's record as it stands on disk, from plain data."""
    # The recipe's own paths are relative to where the user started the sweep.
    os.chdir(directory)
    return parse_sweep(settings), read_record(trial_place(Path(folder), number), Trial)


def _prepare_task(settings: dict[str, Any], number: int, folder: str, runs: str, directory: str) -> str:
    from expunge.runs.run import prepare_shared

    sweep, trial = _opened(settings, number, folder, directory)
    try:
        prepare_shared(sweep.trial(trial.params), Path(runs))
    except Interrupted:
        return "interrupted"
    except UserError:
        # The trial itself meets it again, and its record says so.
        return ""
    return ""


def _trial_task(settings: dict[str, Any], number: int, folder: str, runs: str, directory: str) -> str:
    sweep, trial = _opened(settings, number, folder, directory)
    try:
        run_trial(sweep, trial, Path(folder), Path(runs))
    except Interrupted:
        return "interrupted"
    except CannotCompare as error:
        return str(error)
    return ""

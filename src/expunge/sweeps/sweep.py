"""A sweep: sample trials, run them, and record which one the rule selects."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from expunge.checks.settings import check_settings
from expunge.config.recipe import Recipe
from expunge.config.sweep import UNIMPORTANT, Sweep, check_trials, differences, load_sweep
from expunge.console import interrupt_requested, interruptible, note
from expunge.errors import ConfigError, Interrupted, UserError
from expunge.locking import locked
from expunge.records.sweeps import SweepRecord, Trial
from expunge.report.sweeps.page import plain, write_sweep_report
from expunge.rundir import LOCK, RunDir, read_record, write_atomic, write_record
from expunge.sweeps.executors import Executor, make_executor
from expunge.sweeps.pruning import need_optuna
from expunge.sweeps.ranking import pareto, rank
from expunge.sweeps.results import baselines
from expunge.sweeps.samplers import Sampler, make_sampler
from expunge.sweeps.trials import check_headlines, delete_checkpoint, read_trials, trial_path

MAX_DUPLICATES = 100
"""The sweep ends after this many repeated samples in a row: nothing new is left."""


def sweep(sweep: Sweep | str | Path, overrides: Sequence[str] = (), *, runs: str | Path = "runs") -> SweepRecord:
    """Run many trials of one recipe and select one by a stated rule.

    Trials are ordinary runs in the same folder, so that target, retain model and their evaluations are created once.
    The same call resumes an interrupted sweep; no finished trial runs again.

    Args:
        sweep: A sweep, the name of a packaged one, or the path of a YAML file.
        overrides: Settings as 'key.path=value', such as 'over.train.lr=[1e-5, 2e-5]' or 'set.seed=1'.
        runs: Folder of all runs; the sweep is in sweep-<name> inside it.

    Returns:
        All trials, their ranking and the Pareto front.

    Raises:
        ConfigError: Settings are wrong, or another sweep of this name has begun in the folder.
        MissingExtraError: optuna or ray is needed and not installed.
        UserError: No trial finished.
        Interrupted: Ctrl-C; the same call continues.
    """
    if not isinstance(sweep, Sweep):
        sweep = load_sweep(sweep, overrides)
    recipes = check_trials(sweep)
    check_settings(recipes[0]).raise_failed()
    check_headlines(recipes[0], sweep)
    if sweep.prune is not None:
        need_optuna(f"prune: {sweep.prune.name}")
    executor = make_executor(sweep, Path(runs))
    try:
        folder = Path(runs) / f"sweep-{sweep.name}"
        with interruptible(), locked(folder / LOCK, f"the sweep folder {folder}"):
            return _SweepLoop(sweep, recipes[0], Path(runs), folder, executor).all()
    finally:
        executor.close()


class _SweepLoop:
    """The loop of one call: samples, submits and records trials until the budget is used up."""

    def __init__(self, sweep: Sweep, recipe: Recipe, runs: Path, folder: Path, executor: Executor) -> None:
        self.sweep, self.runs, self.executor = sweep, runs, executor
        self.folder = RunDir(folder)
        self.folder.create()
        before = self._earlier()
        self.sampler: Sampler = make_sampler(sweep, self.folder.path)
        self.trials = {trial.number: trial for trial in read_trials(self.folder.path)}
        self.seconds = before.seconds if before else 0.0
        benchmarks = sweep.final or recipe.evaluate.benchmarks
        self.labels = {name: label for benchmark in benchmarks for name, label in benchmark.labels().items()}
        self.started = time.monotonic()

    def all(self) -> SweepRecord:
        note(f"Sweep folder: {self.folder.path}")
        write_atomic(self.folder / "sweep.yaml", yaml.safe_dump(self.sweep.resolved(), sort_keys=False))
        for trial in self.trials.values():
            if trial.state != "running":
                self.sampler.tell(trial)
        self._write(finished=False)
        waiting = [trial for trial in self.trials.values() if trial.state == "running"]
        running = 0
        try:
            while True:
                while running < self.executor.slots:
                    following = waiting.pop(0) if waiting else self._sample()
                    if following is None:
                        break
                    self.executor.submit(self.sweep, following, self.folder.path)
                    running += 1
                if not running:
                    break
                self._finish(self.executor.next())
                running -= 1
        finally:
            # An interrupted trial has written its progress.
            self.trials |= {trial.number: trial for trial in read_trials(self.folder.path)}
            record = self._write(finished=False)
        if not record.ranking:
            raise UserError(*self._failure())
        record = self._write(finished=True)
        write_sweep_report(self.folder.path)
        return record

    def _earlier(self) -> SweepRecord | None:
        """Return the record of earlier calls; raise if it belongs to a sweep with other settings."""
        path = self.folder / "sweep.json"
        if not path.is_file():
            return None
        earlier = read_record(path, SweepRecord)
        if earlier.fingerprint != self.sweep.fingerprint():
            old = {key: value for key, value in earlier.settings.items() if key not in UNIMPORTANT}
            changed = differences(old, self.sweep.identity())
            raise ConfigError(
                [
                    *changed,
                    "settings changed since the sweep started: restore them, rename the sweep (name=...), choose "
                    f"another --runs folder, or delete {self.folder.path}",
                ],
                source=f"the resumed sweep {self.sweep.name}",
            )
        return earlier

    def _sample(self) -> Trial | None:
        """Return the next trial; None when the budget is used up or nothing new is left."""
        if interrupt_requested():
            raise Interrupted
        for _ in range(MAX_DUPLICATES):
            if self._budget_used():
                return None
            number = len(self.trials)
            params = self.sampler.ask(number)
            if params is None:
                return None
            fingerprint = self.sweep.trial(params).fingerprint()
            same = next((t for t in self.trials.values() if t.fingerprint == fingerprint), None)
            trial = Trial(number=number, params=params, fingerprint=fingerprint)
            if same is None:
                self._save(trial)
                note(f"Trial {number}: {describe(params)}")
                return trial
            again = trial.model_copy(update={"state": "duplicate", "error": f"the same as trial {same.number}"})
            self._save(again)
            self.sampler.tell(same.model_copy(update={"number": number}))
        note(f"{MAX_DUPLICATES} samples in a row repeated earlier trials; nothing new is left to try.")
        return None

    def _budget_used(self) -> bool:
        sampled = sum(trial.state != "duplicate" for trial in self.trials.values())
        if self.sweep.trials is not None and sampled >= self.sweep.trials:
            return True
        hours = (self.seconds + time.monotonic() - self.started) / 3600
        if self.sweep.max_hours is not None and hours >= self.sweep.max_hours:
            note(f"The {self.sweep.max_hours:g} hours of this sweep are used up.")
            return True
        return False

    def _finish(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self.sampler.tell(trial)
        ranking = self._ranking()
        for number in ranking[self.sweep.keep :]:
            if self.trials[number].checkpoint:
                self._save(delete_checkpoint(self.trials[number], self.runs))
        self._write(finished=False)
        count = sum(trial.state not in {"running", "duplicate"} for trial in self.trials.values())
        note(f"{count} trials have finished{f'; trial {ranking[0]} leads' if ranking else ''}.")

    def _save(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        write_record(trial_path(self.folder.path, trial.number), trial)

    def _ranking(self) -> list[int]:
        return rank(list(self.trials.values()), self.sweep.rule, self.sweep.objectives)

    def _failure(self) -> tuple[str]:
        failed = [trial for trial in self.trials.values() if trial.error]
        why = f" The first error: {failed[0].error}" if failed else ""
        return (f"no trial of the sweep {self.sweep.name} finished.{why}",)

    def _write(self, finished: bool) -> SweepRecord:
        """Write the record; everything in it is computed from the trials."""
        trials = [self.trials[number] for number in sorted(self.trials)]
        ranking = self._ranking()
        stopped = [trial for trial in trials if trial.state == "stopped"]
        roles = {}
        if ranking:
            best = self.trials[ranking[0]]
            roles = baselines(self.sweep, best, self.sweep.trial(best.params), self.runs)
        record = SweepRecord(
            name=self.sweep.name,
            folder=str(self.folder.path),
            fingerprint=self.sweep.fingerprint(),
            settings=self.sweep.resolved(),
            rule=self.sweep.rule.words_as_applied([t.chosen_on for t in trials if t.state == "complete"], "trial"),
            objectives=dict(self.sweep.objectives),
            trials=trials,
            ranking=ranking,
            pareto=pareto(trials, self.sweep.objectives),
            num_trials=sum(trial.state not in {"duplicate", "running"} for trial in trials),
            num_failed=sum(trial.state == "failed" for trial in trials),
            num_stopped=len(stopped),
            trained_steps=sum(trial.steps for trial in trials),
            saved_steps=sum(trial.planned_steps - trial.steps for trial in stopped),
            target=roles.get("target", {}),
            retain_model=roles.get("retain", {}),
            labels=self.labels,
            finished=finished,
            seconds=round(self.seconds + time.monotonic() - self.started, 3),
        )
        write_record(self.folder / "sweep.json", record)
        return record


def describe(params: dict[str, object]) -> str:
    """Return the settings of a trial in one line."""
    return ", ".join(f"{key} {plain(value)}" for key, value in params.items())

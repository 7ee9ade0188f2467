"""Whole sweeps: killed and continued, stopped early, halved, refused; and what stays on disk."""

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from sweep_files import write_sweep

from expunge.report.sweeps.page import read_sweep
from expunge.sweeps.sweep import sweep


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    (folder / "token").write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums depend on it
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),  # Ray would write one into the home of whoever runs the tests
    }
    return subprocess.Popen(
        [sys.executable, "-m", "expunge", "sweep", "sweep.yaml", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: "subprocess.Popen[str]", folder: Path, number: int, epochs: int) -> None:
    """Wait until a trial has measured so many epochs."""
    place = folder / f"runs/sweep-tiny/trials/{number:04d}.json"
    for _ in range(60000):
        if place.is_file() and len(json.loads(place.read_text())["trajectory"]) >= epochs:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError("it never came that far")


def facts(record) -> list[dict]:
    """Everything about the trials but the time that they took."""
    return [trial.model_dump(exclude={"seconds"}) for trial in record.trials]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A sweep of three, killed inside its second trial, and the same command again."""
    folder = tmp_path_factory.mktemp("killed")
    write_sweep(folder)
    doomed = start(folder)
    wait_for(doomed, folder, 1, 2)
    doomed.kill()
    first = doomed.communicate(timeout=60)
    folders = {path.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/summary.json")}
    process = start(folder)
    second = process.communicate(timeout=300)
    return folder, first, folders, (process.returncode, *second)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same sweep without interruption, in this process."""
    folder = tmp_path_factory.mktemp("whole")
    return sweep(write_sweep(folder), runs=folder / "runs")


def test_a_killed_sweep_loses_no_trial_and_repeats_none(killed, whole):
    """The first trial is not touched, the second goes on after its second epoch, and all numbers are those of an
    unbroken sweep."""
    folder, _, folders, (code, out, err) = killed
    assert code == 0, err
    assert "Training the" not in err
    assert "Trial 0:" not in err
    assert "Epoch 1:" in err.split("Trial 2:")[1]
    assert "Epoch 1:" not in err.split("Trial 2:")[0]
    assert all((folder / "runs").glob(f"*/{name}") for name in folders)
    record = read_sweep(folder / "runs/sweep-tiny")
    assert facts(record) == facts(whole)
    assert record.finished
    assert (record.num_trials, record.ranking, record.pareto) == (3, whole.ranking, whole.pareto)
    assert out.splitlines()[0].split()[:3] == ["Rank", "Trial", "train.lr"]
    assert "of 3 trials was chosen: the trial with the highest forget_quality" in out


def test_target_and_retain_model_are_made_and_measured_once(whole):
    """Two trained models; one evaluation each, beside three epochs of three trials."""
    shared = Path(whole.folder).parent / "shared"
    assert len(list(shared.glob("model-*/model"))) == 2
    trained = {result["model_hash"] for result in results(whole, "unlearned-*")}
    others = {result["model_hash"] for result in results(whole, "target-*") + results(whole, "retain-*")}
    assert (len(trained), len(others)) == (9, 2)
    assert len(list((shared / "evaluations").glob("tofu-*.parquet"))) == 9 + 2


def results(record, pattern: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in Path(record.folder).parent.glob(f"*/results/{pattern}.json")]


def test_ray_loses_a_worker_and_no_trial(whole, tmp_path):
    """Two workers, one killed inside a trial: Ray starts the trial again, it goes on, and every number is the same."""
    pytest.importorskip("ray", reason="the extra 'sweep' is not installed")
    write_sweep(tmp_path)
    process = start(tmp_path, "--executor", "ray", "--workers", "2")
    wait_for(process, tmp_path, 1, 1)
    workers = [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if any("_trial_task" in word for word in each.cmdline())
    ]
    assert workers, "no trial is running"
    workers[0].kill()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    record = read_sweep(tmp_path / "runs/sweep-tiny")
    assert facts(record) == facts(whole)
    assert f"Trial {record.best.number} of 3 trials was chosen" in out


def test_a_cluster_without_room_is_refused(tmp_path):
    write_sweep(tmp_path)
    process = start(tmp_path, "--executor", "ray", "--workers", "1", "resources={num_gpus: 8}")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert "resources.num_gpus is 8" in err


def test_only_the_best_checkpoint_stays(whole):
    runs = Path(whole.folder).parent
    kept = [path.parent.name for path in runs.glob("*/checkpoint")]
    assert kept == [whole.best.folder]
    assert [trial.number for trial in whole.trials if trial.checkpoint] == [whole.best.number]
    assert all((runs / trial.folder / "results").is_dir() for trial in whole.trials)


def test_deleted_weights_can_be_made_again(whole, tmp_path):
    """`run` with the recipe of a trial whose weights are gone trains it again; the numbers stay."""
    from expunge.config.load import load_recipe
    from expunge.runs.run import run

    runs = Path(whole.folder).parent
    loser = whole.trial(whole.ranking[-1])
    before = (runs / loser.folder / "summary.json").read_text()
    run(load_recipe(runs / loser.folder / "recipe.yaml"), runs=runs)
    assert (runs / loser.folder / "checkpoint/model.safetensors").is_file()
    assert (runs / loser.folder / "summary.json").read_text() == before


def test_the_page_is_made_from_the_record(whole):
    page = (Path(whole.folder) / "sweep.html").read_text()
    assert f"Trial {whole.best.number} of 3 trials was chosen" in page
    assert page.count("<svg") == 1
    assert "the best of 3" in page


def test_a_changed_sweep_is_refused_with_the_difference(whole, cli, tmp_path):
    runs = Path(whole.folder).parent
    path = write_sweep(tmp_path)
    outcome = cli("sweep", path, "set.seed=3", "over.method.beta=[0.1]", "--runs", runs)
    assert outcome.code == 2
    assert "set.seed: not set -> 3" in outcome.err
    assert "over.method.beta: [0.5] -> [0.1]" in outcome.err
    assert "choose another --runs folder" in outcome.err
    again = cli("sweep", path, "keep=2", "--runs", runs, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["ranking"] == whole.ranking


def test_early_stopping_halves_and_a_final_evaluation(tmp_path):
    """ASHA stops some trials between epochs; complete ones alone are measured with generation, chosen on one half and
    reported on the other; a combination that is drawn twice is run once."""
    path = write_sweep(
        tmp_path,
        over={"train.lr": [1e-4, 1e-3, 1e-2, 1e-2]},
        prune={"name": "asha", "factor": 2},
        seed=5,
        choose_on="half",
        final=[{"name": "tofu", "max_new_tokens": 2, "ds_size": 24}],
        objectives=None,
        select="max forget_quality",
    )
    record = sweep(path, runs=tmp_path / "runs")
    states = [trial.state for trial in record.trials]
    assert states.count("duplicate") == 1
    assert record.num_trials == 3
    stopped = [trial for trial in record.trials if trial.state == "stopped"]
    assert record.saved_steps == sum(3 - trial.steps for trial in stopped) > 0
    for trial in stopped:
        place = tmp_path / "runs" / trial.folder
        assert trial.number not in record.ranking
        assert (place / "stopped.json").is_file()
        assert not (place / "summary.json").exists()
        assert not (place / "checkpoint").exists()
        assert not (place / "state").exists()
        assert len((place / "train.jsonl").read_text().splitlines()) == trial.steps
    best = record.best
    assert best.headlines["model_utility"].point is not None
    assert best.trajectory[-1].headlines["model_utility"].point is None
    halves = best.chosen_on["forget_quality"], best.held_out["forget_quality"]
    assert sorted(half.n for half in halves) == [4, 20]
    assert best.headlines["forget_quality"].n == 24
    assert record.target["model_utility"].point is not None
    page = (tmp_path / "runs/sweep-tiny/sweep.html").read_text()
    assert "The other half" in page
    assert page.count("<svg") == 2
    assert facts(sweep(path, runs=tmp_path / "runs")) == facts(record)


def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(tmp_path, cli):
    path = write_sweep(tmp_path, over={"train.lr": [1e38, 1e-3]})
    outcome = cli("sweep", path, "set.train.max_grad_norm=0", "--runs", tmp_path / "runs", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert [trial["state"] for trial in record["trials"]] == ["failed", "complete"]
    assert "not finite" in record["trials"][0]["error"]
    assert (record["num_failed"], record["ranking"]) == (1, [1])


def test_when_every_trial_fails_the_first_error_is_the_answer(tmp_path, cli):
    path = write_sweep(tmp_path, over={"seed": [1, 2]})
    outcome = cli("sweep", path, "set.model.scratch=null", "set.model.name=./nowhere", "--runs", tmp_path / "runs")
    assert outcome.code == 2
    assert "The first error: " in outcome.err
    assert "./nowhere does not exist" in outcome.err


BAD = [
    ({"over": {"train.lr": []}}, ["over.train.lr", "is empty"]),
    ({"over": {"train.lrr": [1e-3]}}, ["train.lrr", "Did you mean 'lr'?"]),
    (
        {"objectives": {"forget_qualty": "up"}},
        ["'forget_qualty' is not a headline of these benchmarks", "forget_quality"],
    ),
    ({"select": "max model_utility", "objectives": None}, ["model_utility", "generate: true"]),
    ({"prune": {"name": "asha", "watch": "model_utility"}}, ["model_utility: needs", "Set prune.watch"]),
    ({"prune": {"name": "asha", "watch": "utility"}}, ["utility: no benchmark reports it after an epoch"]),
    ({"select": "most forgotten"}, ["'most forgotten' is not a rule"]),
]


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_bad_input(tmp_path, cli, changes, words):
    outcome = cli("sweep", write_sweep(tmp_path, **changes), "--runs", tmp_path / "runs")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize(
    ("package", "words", "expected"),
    [
        ("ray", ["--executor", "ray"], "executor: ray needs the package 'ray'"),
        ("optuna", ["sampler=tpe", "trials=2"], "sampler: tpe needs the package 'optuna'"),
        ("optuna", ["prune=asha"], "prune: asha needs the package 'optuna'"),
    ],
)
def test_a_missing_extra_is_named(tmp_path, cli, monkeypatch, package, words, expected):
    monkeypatch.setitem(sys.modules, package, None)
    outcome = cli("sweep", write_sweep(tmp_path), *words, "--runs", tmp_path / "runs")
    assert outcome.code == 2
    assert expected in outcome.err
    assert "pip install 'expunge[sweep]'" in outcome.err


def test_dry_run_lists_the_trials(tmp_path, cli):
    outcome = cli("sweep", "tofu-forget10-npo-sweep", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 56
    assert "54 trials, sampler grid; selects the trial with the highest forget_quality." in outcome.out

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_runs import result

from expunge.errors import DataError
from expunge.report.load import load_run
from expunge.rundir import write_record

Make = Callable[..., Path]


def test_a_finished_run(make_run: Make) -> None:
    run = load_run(make_run())
    assert run.name == "simnpo-people"
    assert run.benchmarks() == ["tofu"]
    assert [each.step for each in run.trajectory("tofu")] == [20, 40, 60, 80, 100]
    assert run.result("unlearned", "tofu").step == 100
    assert len(run.samples(run.result("target", "tofu"))) == 100
    assert len(run.train) == 100
    assert run.missing() == []


def test_the_selected_step_stands_for_the_unlearned_model(make_run: Make) -> None:
    folder = make_run()
    summary = load_run(folder).summary
    write_record(folder / "summary.json", summary.model_copy(update={"selected_step": 60, "selected_epoch": 3.0}))
    assert load_run(folder).result("unlearned", "tofu").epoch == 3


def test_an_unfinished_run_says_what_is_missing(make_run: Make) -> None:
    run = load_run(make_run(finished=False))
    assert run.summary is None
    assert run.missing() == [
        "the evaluation of the target",
        "the evaluation of the retain model",
        "the evaluation of the unlearned model",
        "the summary (summary.json), written last",
    ]


def test_a_method_that_does_not_train_misses_no_training(make_run: Make) -> None:
    folder = make_run(train=None)
    (folder / "train.jsonl").unlink()
    assert load_run(folder).missing() == []


def test_half_a_last_line_is_forgiven_but_not_one_in_the_middle(make_run: Make) -> None:
    log = make_run() / "train.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:50], lines[50][:20]]))
    assert len(load_run(log.parent).train) == 50
    log.write_text("\n".join([*lines[:50], lines[50][:20], *lines[51:]]))
    with pytest.raises(DataError, match=r"train\.jsonl, line 51"):
        load_run(log.parent)


def test_what_is_not_a_run_is_refused_with_the_nearest(make_run: Make, tmp_path: Path) -> None:
    make_run("npo-people")
    with pytest.raises(DataError, match=r"holds run folders: npo-people"):
        load_run(tmp_path)
    with pytest.raises(DataError, match=r"does not exist\. Did you mean 'npo-people'\?"):
        load_run(tmp_path / "npo-peple")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"no recipe\.yaml"):
        load_run(empty)


def test_damaged_records_are_named(make_run: Make) -> None:
    folder = make_run()
    (folder / "recipe.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"recipe\.yaml is not readable YAML"):
        load_run(folder)
    (folder / "recipe.yaml").write_text("- a")
    with pytest.raises(DataError, match="mapping of settings"):
        load_run(folder)
    (folder / "recipe.yaml").write_text("name: a")
    (folder / "results/target-tofu.json").write_text("{")
    with pytest.raises(DataError, match=r"target-tofu\.json is not complete JSON"):
        load_run(folder)


def test_samples_outside_the_run_are_never_read(make_run: Make) -> None:
    run = load_run(make_run())
    with pytest.raises(DataError, match="leads out of the run folder"):
        run.samples(result("target", samples="../../secret.parquet"))


def test_missing_and_damaged_samples(make_run: Make) -> None:
    run = load_run(make_run())
    assert run.samples(None) == []
    assert run.samples(result("target", samples="samples/none.parquet")) == []
    (run.folder / "samples/bad.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read as Parquet"):
        run.samples(result("target", samples="samples/bad.parquet"))

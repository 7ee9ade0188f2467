"""The folder of runs: which runs it lists, when it reads them again, and that it stays inside."""

import os
import time

import pytest

from expunge.errors import DataError
from expunge.view.folder import OutsideError, RunFolder, UnknownNameError


def test_rows_of_a_finished_and_an_unfinished_run(runs):
    rows = {row.name: row for row in RunFolder(runs).rows()}
    assert list(rows) == ["two", "one"]  # newest first
    one, two = rows["one"], rows["two"]
    assert (one.method, one.model, one.data, one.status) == ("npo", "org/model", "tofu/forget10", "finished")
    assert (one.forgot, one.kept, one.verdict) == (True, False, "Forgotten, utility lost.")
    assert one.headlines == [{"title": "Forget quality", "point": 0.5, "text": "0.500 [0.100, 0.900]"}]
    assert (two.status, two.verdict, two.forgot, two.headlines) == ("running", "", None, [])


def test_a_run_that_writes_nothing_is_unfinished(runs):
    folder = RunFolder(runs)
    old = time.time() - 3600
    for path in (runs / "two").iterdir():
        os.utime(path, (old, old))
    assert folder.row("two").status == "unfinished"


def test_only_changed_runs_are_read_again(runs, monkeypatch):
    from expunge.view import folder as module

    folder, read = RunFolder(runs), []
    original = module._read_row
    monkeypatch.setattr(module, "_read_row", lambda name, path: read.append(name) or original(name, path))
    folder.rows()
    folder.rows()
    assert sorted(read) == ["one", "two"]
    path = runs / "one/summary.json"
    path.write_text(path.read_text().replace("utility lost.", "utility lost, again."))
    assert folder.row("one").verdict == "Forgotten, utility lost, again."
    folder.rows()
    assert sorted(read) == ["one", "one", "two"]


def test_records_of_a_run_are_read_again_after_a_new_step(runs):
    folder = RunFolder(runs)
    first = folder.run("two")
    assert folder.run("two") is first
    log = runs / "two/train.jsonl"
    log.write_text(log.read_text() + log.read_text().splitlines()[-1].replace('"step":2', '"step":3') + "\n")
    assert [point.step for point in folder.run("two").train] == [1, 2, 3]


@pytest.mark.parametrize("text", ["- a list", "a: [", "\udcff"])
def test_a_damaged_recipe_is_a_problem_of_one_run(runs, text):
    (runs / "one/recipe.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    rows = {row.name: row for row in RunFolder(runs).rows()}
    assert "recipe" in rows["one"].problem
    assert not rows["two"].problem


def test_a_damaged_record_is_a_problem_of_one_run(runs):
    (runs / "one/summary.json").write_text("{}")
    rows = {row.name: row for row in RunFolder(runs).rows()}
    assert "not a RunSummary record" in rows["one"].problem


@pytest.mark.parametrize("name", ["..", "../runs/one", "one/../two", "", ".", "/etc", "three"])
def test_only_listed_names_are_runs(runs, name):
    folder = RunFolder(runs)
    for method in (folder.path, folder.run, folder.row, folder.sample_files):
        with pytest.raises(UnknownNameError):
            method(name)


def test_a_link_to_a_run_elsewhere_is_not_listed(runs, tmp_path):
    outside = tmp_path / "outside"
    (runs / "one").rename(outside)
    (runs / "one").symlink_to(outside)
    (runs / "inner").symlink_to(runs / "two")
    assert {row.name for row in RunFolder(runs).rows()} == {"two", "inner"}


@pytest.mark.parametrize("name", ["summary.json", "train.jsonl", "report.html", "recipe.yaml", "samples", "results"])
def test_a_run_with_a_link_out_of_the_folder_is_refused(runs, tmp_path, name):
    path, outside = runs / "one" / name, tmp_path / "secret"
    if path.exists():
        path.rename(outside)
    else:
        outside.write_text("secret")
    path.symlink_to(outside)
    folder = RunFolder(runs)
    assert "leads out of" in folder.row("one").problem
    with pytest.raises(OutsideError, match="leads out of"):
        folder.run("one")
    assert not folder.row("two").problem


def test_a_sample_file_that_links_out_of_the_folder_is_refused(runs, tmp_path):
    path = runs / "one/samples/unlearned-tofu-000002.parquet"
    path.rename(tmp_path / "outside.parquet")
    path.symlink_to(tmp_path / "outside.parquet")
    folder = RunFolder(runs)
    for read in (folder.sample_files, folder.run):
        with pytest.raises(OutsideError, match=r"samples/unlearned-tofu-000002\.parquet is a link"):
            read("one")


def test_errors_for_folders_without_runs(runs, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        RunFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is one run.*Give the folder above it"):
        RunFolder(runs / "one")
    with pytest.raises(DataError, match=r"has no runs: no folder in it has a recipe\.yaml"):
        RunFolder(runs / "one/samples")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        RunFolder(tmp_path / "file")

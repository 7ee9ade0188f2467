"""TOFU as published: sizes, authors, alignment of the perturbed files, and the leak check."""

import json
import shutil
import time

import pytest

from expunge.config.recipe import TofuData
from expunge.data.duplicates import find_overlap
from expunge.data.prepare import prepare_sets
from expunge.errors import DataError


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "data" / "tofu"


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of forget01's files that a test may damage."""
    for stem in ("forget01", "forget01_perturbed", "retain99", "retain_perturbed"):
        shutil.copyfile(folder / f"{stem}.json", tmp_path / f"{stem}.json")
    for stem in ("real_authors_perturbed", "world_facts_perturbed"):
        shutil.copyfile(folder / f"{stem}.json", tmp_path / f"{stem}.json")
    return tmp_path


@pytest.mark.parametrize(("split", "num_forget"), [("forget01", 40), ("forget05", 200), ("forget10", 400)])
def test_sizes_and_authors(folder, split, num_forget):
    """The forget set is the end of 4000 rows of 20 per author: its authors are the last of 0..199."""
    sets = prepare_sets(TofuData(path=str(folder), split=split))
    assert sets.name == f"tofu/{split}"
    assert (len(sets.forget), len(sets.retain)) == (num_forget, 4000 - num_forget)
    assert {name: len(rows) for name, rows in sets.evaluation.items()} == {
        "forget": num_forget,
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    first = 200 - num_forget // 20
    assert [row.group for row in sets.forget] == [f"author/{first + i // 20}" for i in range(num_forget)]
    assert {row.group for row in sets.retain} == {f"author/{i}" for i in range(first)}
    assert {row.group for row in sets.evaluation["retain"]} == {f"author/{i}" for i in range(20)}
    assert len({row.group for row in sets.evaluation["world_facts"]}) == 117


def test_forget_and_retain_together_are_the_full_list(folder):
    sets = prepare_sets(TofuData(path=str(folder), split="forget10"))
    full = [json.loads(line) for line in (folder / "full.json").read_text(encoding="utf-8").splitlines()]
    ours = [{"question": row.question, "answer": row.answer} for row in [*sets.retain, *sets.forget]]
    assert ours == full


def test_evaluation_rows_carry_paraphrases_and_wrong_answers(folder):
    sets = prepare_sets(TofuData(path=str(folder), split="forget05"))
    for name, num in (("forget", 5), ("retain", 5), ("real_authors", 3), ("world_facts", 3)):
        assert all(len(row.perturbed_answers) == num for row in sets.evaluation[name])
        assert all(bool(row.paraphrased_answer) == (num == 5) for row in sets.evaluation[name])
    assert sets.evaluation["real_authors"].rows[1].answer == "George Orwell"


def test_no_duplicates_are_reported_and_the_check_is_quick(folder):
    """No row of forget10 shares half of its word pairs with one of retain90; the search takes under 3 s."""
    sets = prepare_sets(TofuData(path=str(folder), split="forget10"))
    start = time.perf_counter()
    overlap = find_overlap(sets.forget, sets.retain)
    assert time.perf_counter() - start < 3
    assert (overlap.num_exact, overlap.num_near, overlap.examples) == (0, 0, [])
    assert find_overlap(sets.forget, sets.retain, threshold=0.5).num_near == 0


def test_missing_files_are_named(copy):
    (copy / "retain99.json").unlink()
    (copy / "world_facts_perturbed.json").unlink()
    with pytest.raises(DataError, match=r"lacks retain99\.json, world_facts_perturbed\.json"):
        prepare_sets(TofuData(path=str(copy), split="forget01"))


def test_a_truncated_file_is_refused_with_both_counts(copy):
    lines = (copy / "retain99.json").read_text(encoding="utf-8").splitlines()
    (copy / "retain99.json").write_text("\n".join(lines[:3000]), encoding="utf-8")
    with pytest.raises(DataError, match=r"retain99 .* has 3000 rows, but TOFU has 3960"):
        prepare_sets(TofuData(path=str(copy), split="forget01"))


def test_perturbed_rows_in_another_order_are_refused(copy):
    lines = (copy / "forget01_perturbed.json").read_text(encoding="utf-8").splitlines()
    lines[6], lines[7] = lines[7], lines[6]
    (copy / "forget01_perturbed.json").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match="row 7 of forget01"):
        prepare_sets(TofuData(path=str(copy), split="forget01"))


def test_a_row_without_its_wrong_answers_is_refused(copy):
    lines = (copy / "forget01_perturbed.json").read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[2])
    row["perturbed_answer"].pop()
    lines[2] = json.dumps(row)
    (copy / "forget01_perturbed.json").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"row 3 of forget01_perturbed .* has 4 perturbed answers"):
        prepare_sets(TofuData(path=str(copy), split="forget01"))


def test_a_setting_for_the_hub_is_refused_for_a_folder(folder):
    with pytest.raises(DataError, match="revision has no effect"):
        prepare_sets(TofuData(path=str(folder), revision="main"))

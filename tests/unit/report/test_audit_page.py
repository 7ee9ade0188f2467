"""The audits on the page: verdict, table, recovery over cost, transcripts, and what was not run."""

import re

import pyarrow
import pyarrow.parquet
import pytest

from expunge.errors import DataError
from expunge.records import AuditResult, Battery, Cost, Finding, Value
from expunge.report.audits import audits_view, cost_in_words
from expunge.report.caveats import about_audits
from expunge.report.html import write_audit_report, write_report
from expunge.report.load import load_audits
from expunge.report.plots import recovery
from expunge.rundir import write_record

EVIL = "</td><script>alert(1)</script>"


def finding(attempt, excess, outcome, passes=1.0, **more):
    size = Value(point=excess, low=excess - 0.05, high=excess + 0.05, n=40)
    return Finding(
        audit="quantize",
        attempt=attempt,
        measure="probability",
        after={"unlearned": Value(point=0.1 + excess, n=40), "retain": Value(point=0.1, n=40)},
        effect=size,
        excess=size,
        residual=Value.missing("the target (--target)"),
        utility={"unlearned": 0.97, "retain": None},
        cost=Cost(passes=passes, seconds=2.0),
        outcome=outcome,
        reason=f"reason of {attempt}",
        **more,
    )


FINDINGS = [
    finding("before", 0.01, "indistinguishable"),
    finding("int8", 0.05, "inconclusive"),
    finding("int4", 0.4, "leaks", passes=4.0),
    finding("ruined", 0.6, "inconclusive", counted=False, not_counted="it costs too much"),
]


@pytest.fixture
def folder(tmp_path):
    """Records of an audit of a model folder, with a transcript that tries to break out of the page."""
    rows = [
        {
            "arm": arm,
            "view": "int4",
            "measure": "probability",
            "id": name,
            "question": f"Who is {name}?",
            "answer": "Ana",
            "response": EVIL if name == "worst" else None,
            "score": score,
        }
        for name, ours, theirs in (("equal", 0.9, 0.9), ("worst", 0.8, 0.1), ("some", 0.5, 0.2), ("none", None, 0.3))
        for arm, score in (("unlearned", ours), ("retain", theirs))
    ]
    (tmp_path / "samples").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "samples/audit-quantize.parquet")
    result = AuditResult(
        audit="quantize",
        arms={"unlearned": "m", "retain": "r"},
        verdict="Leaks.",
        findings=FINDINGS,
        samples="samples/audit-quantize.parquet",
    )
    battery = Battery(
        arms=result.arms,
        outcome="leaks",
        verdict=f"Leaks: 1 of 3 attempts {EVIL}",
        audits=["quantize"],
        not_run={"contrast": "needs the target"},
        findings=FINDINGS,
        notes=["No target is available."],
    )
    write_record(tmp_path / "audits/quantize.json", result)
    write_record(tmp_path / "battery.json", battery)
    return tmp_path


def test_page_of_a_model_that_is_no_run(folder):
    path = write_audit_report(folder)
    assert path == folder / "audit.html"
    text = path.read_text(encoding="utf-8")
    for part in ("Leaks: 1 of 3 attempts", "0.400", "[0.350, 0.450]", "97%", "4 passes", "needs the target"):
        assert part in text
    assert "not counted" in text
    assert "No target is available." in text
    assert "<svg" in text
    assert "<script>alert" not in text
    assert text.count("<script>") == 1


def test_attempts_are_listed_worst_first(folder):
    view = audits_view(folder, *load_audits(folder))
    assert [each.attempt for each in view.findings] == ["int4", "int8", "before", "ruined"]


def test_transcripts_are_worst_first_by_the_excess_over_the_retain_model(folder):
    """Excess .7, .3 and 0, though the row with excess 0 has the highest score; a row without a score is last."""
    section = audits_view(folder, *load_audits(folder)).sections[0]
    assert [re.search("is (.*)\\?", item.prompt).group(1) for item in section.transcripts] == [
        "worst",
        "some",
        "equal",
        "none",
    ]
    assert section.transcripts[0].controls == {"retain": "0.10"}
    assert section.transcripts[1].response is None
    assert (section.transcripts[3].score, section.num_transcripts) == (None, 4)


def test_everything_that_was_not_run_has_a_reason(folder):
    view = audits_view(folder, *load_audits(folder))
    assert view.not_run["contrast"] == "needs the target"
    assert view.not_run["leaks"] == "was not asked for"
    assert "quantize" not in view.not_run


def test_limits_name_what_was_run_and_what_was_not(folder):
    audits, battery = load_audits(folder)
    first = about_audits(audits, battery)[0]
    assert first.startswith("Attacks that were run: quantize. Not run: ")
    assert "leaks" in first
    assert "No attack was run" in about_audits([], None)[0]
    alone = battery.model_copy(update={"outcome": "indistinguishable"})
    assert any("no proof that the knowledge is gone" in line for line in about_audits(audits, alone))


def test_audit_of_another_command_is_marked(folder):
    audits, battery = load_audits(folder)
    other = audits[0].model_copy(update={"audit": "leaks"})
    view = audits_view(folder, [*audits, other], battery)
    assert [section.apart for section in view.sections] == [False, True]
    assert "leaks" not in view.not_run
    assert any("run by another command" in line for line in about_audits([*audits, other], battery))


def test_run_page_has_the_battery(make_run, folder):
    run = make_run()
    for name in ("audits", "samples"):
        (run / name).mkdir(exist_ok=True)
        for path in (folder / name).iterdir():
            (run / name / path.name).write_bytes(path.read_bytes())
    (run / "battery.json").write_bytes((folder / "battery.json").read_bytes())
    text = write_report([run]).read_text(encoding="utf-8")
    assert "Attacks on the finished model" in text
    assert "reason of int4" in text
    assert "<script>alert" not in text


def test_recovery_needs_a_retain_model():
    missing = Value.missing("a retain model")
    assert recovery([FINDINGS[0].model_copy(update={"excess": missing})]) is None
    svg = recovery([*FINDINGS, FINDINGS[0].model_copy(update={"measure": "re<call"})])
    assert "re&lt;call" in svg


def test_cost_leaves_out_what_is_zero():
    assert cost_in_words(Cost()) == "nothing"
    assert cost_in_words(Cost(rows=16, passes=1)) == "16 rows, 1 passes"


def test_samples_outside_the_folder_are_not_followed(folder):
    audits, battery = load_audits(folder)
    with pytest.raises(DataError, match="never followed"):
        audits_view(folder, [audits[0].model_copy(update={"samples": "../other.parquet"})], battery)

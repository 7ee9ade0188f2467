from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from report_runs import quality, result, sample_rows, write_samples

from expunge.errors import DataError
from expunge.records import AuditResult, Label, Value
from expunge.report.html import differences, duration, size, write_report
from expunge.report.load import load_run
from expunge.rundir import write_record

Make = Callable[..., Path]
EVIL = '</td></table><script>alert("x")</script><img src=x onerror=alert(1)>\u2028{{ 7*7 }}\u202eabc'


class Page(HTMLParser):
    """Collects elements and what they would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {value}")
            if name.startswith("on"):
                self.handlers.append(name)


def test_a_finished_run(make_run: Make) -> None:
    folder = make_run()
    path = write_report([folder])
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    assert "Forgotten as far as this test can see, utility kept" in text
    assert "This run is unfinished" not in text
    assert "Not available" not in text
    for part in (
        "2.4e-21",
        "0.604",
        "[0.584, 0.624]",
        "SimNPO model card",
        "5f0c2a9be117",
        "transformers 5.0.1",
    ):
        assert part in text
    assert text.count("<svg") == 3


def test_deviations_of_the_recipe_are_shown(make_run: Make) -> None:
    folder = make_run()
    with (folder / "recipe.yaml").open("a", encoding="utf-8") as file:
        file.write("\ndeviations: [Another optimiser <than published>.]\n")
    text = write_report([folder]).read_text(encoding="utf-8")
    assert "<dt>Deviations from the source</dt><dd>Another optimiser &lt;than published&gt;.</dd>" in text


def test_the_page_loads_nothing(make_run: Make) -> None:
    page = Page(write_report([make_run()]).read_text(encoding="utf-8"))
    assert page.loads == []
    assert page.handlers == []
    assert page.tags.count("script") == 1


def test_model_output_stays_text(make_run: Make) -> None:
    text = write_report([make_run(text=EVIL, description=EVIL)]).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert "&lt;script&gt;" in text
    assert "{{ 7*7 }}" in text
    assert "\u202e" not in re.sub(r"<(p|pre)\b.*?</\1>", "", text, flags=re.DOTALL)


def test_only_our_script_may_run(make_run: Make) -> None:
    """The policy names the hash of exactly the script that the page carries."""
    import base64
    import hashlib

    text = write_report([make_run()]).read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}" in text or f"script-src 'sha256-{digest}'" in text


def test_worst_questions_come_first(make_run: Make) -> None:
    text = write_report([make_run()]).read_text(encoding="utf-8")
    table = text[text.index('id="tofu-2"') : text.index('id="tofu-3"')]
    scores = [float(score) for score in re.findall(r'data-after="([0-9.]+)"', table)]
    assert len(scores) == 60
    assert scores == sorted(scores, reverse=True)


def test_a_thousand_rows_stay_small(make_run: Make) -> None:
    path = write_report([make_run(num_forget=1200, text="word " * 60)])
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 2_000_000
    assert "The first 1000 of 1200 questions" in text


def test_an_unfinished_run_gets_a_page_that_says_so(make_run: Make) -> None:
    text = write_report([make_run(finished=False)]).read_text(encoding="utf-8")
    assert "This run is unfinished" in text
    assert "the evaluation of the unlearned model" in text
    assert "there is no verdict yet" in text
    assert text.count("Not available") >= 1


def test_the_barest_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: bare\n")
    assert "the manifest (manifest.json)" in write_report([tmp_path]).read_text(encoding="utf-8")


def test_a_benchmark_without_per_question_rows(make_run: Make) -> None:
    folder = make_run(finished=False)
    value = Value(point=31.2, low=28.7, high=33.9, n=1273, unit="%", better="lower")
    other = result("unlearned", step=150).model_copy(update={"benchmark": "wmdp", "headlines": {"bio": value}})
    write_record(folder / "results/unlearned-wmdp-000150.json", other)
    text = write_report([folder]).read_text(encoding="utf-8")
    assert "31.2%" in text
    assert "lower is better" in text
    assert "needs an evaluation of the target" in text
    assert "there is no verdict yet" in text


def test_no_retain_model(make_run: Make) -> None:
    folder = make_run(retain_model=None)
    (folder / "results/retain-tofu.json").unlink()
    (folder / "summary.json").unlink()
    missing = result("unlearned", Value.missing("a retain model (model.retain_model)"), None, step=100, epoch=5)
    write_record(folder / "results/unlearned-tofu-000100.json", missing)
    text = write_report([folder]).read_text(encoding="utf-8")
    assert "needs a retain model (model.retain_model)" in text
    assert "There is no retain model" in text


def test_generations_that_were_not_made(make_run: Make) -> None:
    folder = make_run()
    rows = [{**row, "generation": None, "rouge_l_recall": None} for row in sample_rows("unlearned")]
    write_samples(folder, "unlearned-tofu", rows)
    text = write_report([folder]).read_text(encoding="utf-8")
    assert '<td class="text" data-label="Unlearned">—</td>' in text


def test_limits_follow_the_facts(make_run: Make) -> None:
    text = write_report([make_run(evaluate={"select": "max forget_quality"})]).read_text(encoding="utf-8")
    assert "The checkpoint was selected among 5" in text
    assert "A p-value is no proof of absence." in text
    assert "No attack was run" in text
    assert "one seed (7)" in text
    assert "1 forget row is also in the retain set" in text


def test_audits_change_the_limits_and_stand_on_the_page(make_run: Make) -> None:
    """Worst first: a leak that the retain model does not have, then one that it has too; texts are escaped."""
    folder = make_run()
    samples = [
        {"arm": arm, "view": "novel_recall", "id": name, "question": "Who?", "answer": "Ana", "response": text,
         "leaked": "ana" if leaks else "", "share": float(leaks), "leaks": leaks}
        for arm, name, text, leaks in (
            ("unlearned", "holds", "nobody-knows", False),
            ("unlearned", "both", "both-say Ana", True),
            ("unlearned", "alone", "<script>Ana</script>", True),
            ("retain", "both", "Ana", True),
            ("retain", "alone", "no", False),
        )
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(samples), folder / "samples/audit-leaks.parquet")
    record = AuditResult(
        audit="leaks",
        arms={"unlearned": "m", "retain": "r"},
        values={"novel_recall": {"unlearned": Value(point=0.25, n=3), "retain": Value.missing("rows")}},
        verdict="novel_recall: it leaks.",
        samples="samples/audit-leaks.parquet",
    )
    write_record(folder / "audits/leaks.json", record)
    text = write_report([folder]).read_text(encoding="utf-8")
    assert "Attacks that were run: leaks" in text
    assert "novel_recall: it leaks." in text
    positions = [text.index(part) for part in ("&lt;script&gt;<mark>Ana", "both-say", "nobody-knows")]
    assert positions == sorted(positions)
    assert "<script>Ana" not in text


def test_several_runs_are_compared(make_run: Make, tmp_path: Path) -> None:
    one = make_run("simnpo-1")
    two = make_run("npo-2", name="npo-people", method={"name": "npo", "beta": 0.1})
    path = write_report([one, two])
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "comparison.html"
    assert "method.beta" in text
    assert "cannot be ranked" not in text
    other = make_run("npo-3", name="npo-people", data={"name": "synthetic", "num_people": 9})
    text = write_report([two, other], tmp_path / "out.html").read_text(encoding="utf-8")
    assert "cannot be ranked" in text
    assert "npo-3" in text


def test_finished_and_unfinished_runs_compare(make_run: Make) -> None:
    text = write_report([make_run("a"), make_run("b", finished=False, name="late")]).read_text(encoding="utf-8")
    assert "needs a benchmark of this run that reports it" in text


def test_differences() -> None:
    recipes = {
        "a": {"name": "a", "train": {"lr": 1e-5, "epochs": 5}},
        "b": {"name": "b", "train": {"epochs": 5}},
    }
    assert differences(recipes) == {"train.lr": {"a": "1.0e-05", "b": "not set"}}


def test_bad_calls(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a run folder"):
        write_report([tmp_path])
    with pytest.raises(ValueError, match="at least one"):
        write_report([])


def test_two_benchmarks_share_a_page(make_run: Make) -> None:
    """Each has its own trajectory, sections and rules; labels come from the records, so any benchmark is presented."""
    folder = make_run(evaluate={"benchmarks": ["tofu", "./mine.py"]})
    labels = {"score": Label(title="My score", explain="share of right answers", better="lower")}
    for role, step, point in (("target", 0, 0.9), ("unlearned", 80, 0.4), ("unlearned", 100, 0.2)):
        mine = result(role, step=step, epoch=step / 20).model_copy(
            update={
                "benchmark": "mine",
                "title": "My benchmark",
                "labels": labels,
                "axes": None,
                "sections": [],
                "headlines": {"score": Value(point=point, low=point - 0.1, high=point + 0.1, n=50)},
            }
        )
        name = f"{role}-mine" + (f"-{step:06d}" if step else "")
        write_record(folder / f"results/{name}.json", mine)
    text = write_report([folder]).read_text(encoding="utf-8")
    assert "My score" in text
    assert "share of right answers" in text
    assert text.index("My benchmark</h3>") > text.index("TOFU</h3>")
    assert "0.200" in text


def test_durations_and_sizes() -> None:
    assert [duration(each) for each in (4.2, 90, 3723)] == ["4.2 s", "2 min", "1 h 2 min"]
    assert [size(each) for each in (12, 2048, 3_500_000_000)] == ["12 bytes", "2 KiB", "3.26 GiB"]


def test_the_underflowed_target_is_drawn(make_run: Make) -> None:
    folder = make_run()
    target = load_run(folder).result("target", "tofu")
    headlines = {**target.headlines, "forget_quality": quality(0.0)}
    write_record(folder / "results/target-tofu.json", target.model_copy(update={"headlines": headlines}))
    assert "5.0e-413" in write_report([folder]).read_text(encoding="utf-8")


def test_reports_do_not_import_torch() -> None:
    code = "import sys, expunge.report.html, expunge.report.card; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

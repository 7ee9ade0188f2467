"""Write docs/results.md from the records in results/runs/, one folder per run.

python tools/docs/make_results.py                         # write the page
python tools/docs/make_results.py add RUN LABEL COMMAND   # copy the records of a finished run or sweep, and its command
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from expunge.records import AuditResult, BenchmarkResult, RunSummary
from expunge.records.format import format_value
from expunge.report.load import load_run
from expunge.report.sweeps import plots as sweep_plots
from expunge.report.sweeps.page import header, rank_rows, read_sweep, sentence
from expunge.report.tables import headline_rows, markdown_table, to_markdown
from expunge.rundir import read_record, write_record

DOCS = Path(__file__).parents[2] / "docs"
RECORDS = DOCS.parent / "results" / "runs"
INTRO = """# Results

All values on this page are read from records that a command wrote; `python tools/docs/make_results.py` generates the
page from the records in `results/runs/`. The models are small (4 million parameters, trained from scratch on TOFU), not
the 7B models of the papers: compare whether and how a method forgets, not the absolute utility. In the commands,
`models/` contains these models and `data/tofu` the files of huggingface.co/datasets/locuslab/TOFU. Intervals are 95 %
and resample authors.

Tuned results are the best of several: settings and epoch were chosen on forget questions that are also reported here,
without a held-out set. About 5 settings of NPO and 6 of SimNPO were tried, most of them stopped early; the settings of
the quickstart were chosen after 8 trials. The runs with published settings were not tuned. Each run has one seed.

The sweep of 54 trials was killed once and resumed. It stops trials early by ASHA with factor 3, from the first epoch
on, so only one trial was trained to the end. To measure the cost of early stopping, the eight settings around the
chosen one were trained to the end, too (`forget10-npo-sweep-to-the-end`). The same setting ranks first, but two others
have a model utility of 0.84 and 0.88, against its 0.65, at a forget quality of 0.03; early stopping by forget quality
alone discarded them. The other 46 trials were not trained to the end. That none of them would have ranked first is
likely but not certain: when they were stopped, their forget quality was at most 2e-6, and below 1e-10 for 42 of them.
Forget quality of sweeps is on the first 200 questions in the ranking, and on all 400 in the stopped trials.
"""


def add(run: Path, label: str, command: str) -> None:
    """Copy the records of a finished run or sweep, without samples, weights and report."""
    folder = RECORDS / label
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "command.txt").write_text(command + "\n")
    if (run / "sweep.json").is_file():
        shutil.copy(run / "sweep.json", folder / "sweep.json")
        (folder / "front.svg").write_text(sweep_plots.pareto(read_sweep(run)) or "")
        return
    for name in ("recipe.yaml", "manifest.json", "train.jsonl"):
        shutil.copy(run / name, folder / name)
    summary = read_record(run / "summary.json", RunSummary)
    write_record(folder / "summary.json", summary.model_copy(update={"folder": f"runs/{run.name}"}))
    for name in ("results", "audits"):
        if (run / name).is_dir():
            shutil.copytree(run / name, folder / name)


def page() -> str:
    """Return the full page."""
    runs = sorted(path.parent for path in RECORDS.glob("*/command.txt"))
    return "\n".join([INTRO, *(sweep_section(run) if (run / "sweep.json").is_file() else section(run) for run in runs)])


def heading(folder: Path) -> list[str]:
    """Return the label of a record as a heading, and its command."""
    return [f"## {folder.name}", "", "```", (folder / "command.txt").read_text().strip(), "```", ""]


def sweep_section(folder: Path) -> str:
    """Return the section of a sweep: choice, steps saved by early stopping, ranking and Pareto front."""
    record = read_sweep(folder)
    planned = record.trained_steps + record.saved_steps
    rows = rank_rows(record)
    lines = [
        *heading(folder),
        sentence(record),
        "",
        f"{record.trained_steps} of {planned} planned optimiser steps were trained; early stopping saved "
        f"{record.saved_steps / planned:.0%}. The sweep took {record.seconds / 60:.0f} minutes.",
        "",
        f"![Pareto front](../results/runs/{folder.name}/front.svg)",
        "",
        markdown_table(header(record), rows[: len(record.ranking)]),
        "",
    ]
    stopped = rows[len(record.ranking) :]
    if stopped:
        lines += [
            f"<details><summary>{len(stopped)} trials that were stopped early or failed</summary>",
            "",
            markdown_table(header(record), stopped),
            "",
            "</details>",
            "",
        ]
    return "\n".join(lines)


def audit_section(result: AuditResult) -> list[str]:
    """Return the section of an audit: verdict, and metrics of each model."""
    arms = list(result.arms)
    rows = [[name, *(format_value(values[arm]) for arm in arms)] for name, values in result.values.items()]
    return [f"### Audit: {result.audit}", "", result.verdict, "", markdown_table(["metric", *arms], rows), ""]


def section(folder: Path) -> str:
    """Return the section of a run: command, verdict, headlines, trajectory and audits."""
    run = load_run(folder)
    assert run.summary is not None
    assert run.manifest is not None
    seconds = sum(stage.seconds for stage in run.manifest.stages)
    peak = max(stage.peak_bytes for stage in run.manifest.stages) / 2**30
    lines = [
        *heading(folder),
        run.summary.verdict.sentence,
        "",
        to_markdown(headline_rows(run)),
        "",
        f"Selected: {run.summary.selection_rule}, epoch {run.summary.selected_epoch:g}. The run took {seconds:.0f} s "
        f"on {run.manifest.hardware.get('cores')} cores, with a peak of {peak:.1f} GiB.",
        "",
        *(trajectory(points, run.result("target", "tofu")) if (points := run.trajectory("tofu")) else []),
        *(texts(points[-1], run.result("target", "familiarity")) if (points := run.trajectory("familiarity")) else []),
        "",
        *(line for audit in run.audits for line in audit_section(audit)),
    ]
    return "\n".join(lines) + "\n"


def texts(after: BenchmarkResult, before: BenchmarkResult | None) -> list[str]:
    """Return a table of the perplexity of each text, before and after unlearning."""
    rows = ["| text | perplexity before | after | ratio |", "|---|---|---|---|"]
    for name, value in after.metrics.items():
        target_value = before.metrics[name] if before else None
        if name.endswith("/perplexity") and target_value and target_value.point and value.point:
            text = name.removesuffix("/perplexity").replace("_text/", ": ").replace("_", " ")
            ratio = value.point / target_value.point
            rows.append(f"| {text} | {target_value.point:.1f} | {value.point:.1f} | {ratio:.3f} |")
    return rows


def trajectory(points: list[BenchmarkResult], target: BenchmarkResult | None) -> list[str]:
    """Return a table of all evaluated epochs."""
    base = target.headlines["model_utility"].point if target else None
    rows = [
        "| epoch | forget quality | log10 | KS distance | model utility | share of the target's |",
        "|---|---|---|---|---|---|",
    ]
    for point in points:
        quality, utility = point.headlines["forget_quality"], point.headlines["model_utility"]
        share = f"{utility.point / base:.1%}" if base and utility.point is not None else ""
        rows.append(
            f"| {point.epoch:g} | {format_value(quality)} | {quality.extra.get('log10', float('nan')):.2f} | "
            f"{quality.extra.get('ks', float('nan')):.3f} | {format_value(utility)} | {share} |"
        )
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"]:
        add(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    (DOCS / "results.md").write_text(page(), encoding="utf-8")

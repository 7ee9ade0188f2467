"""The report: one self-contained HTML page about a run, or about several side by side."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from expunge.records import BenchmarkResult, Value, Verdict
from expunge.report import plots, questions, tables, verdict
from expunge.report.audits import audit_sections
from expunge.report.caveats import caveats
from expunge.report.completions import completion_section
from expunge.report.load import ROLES, LoadedRun, load_run
from expunge.rundir import write_atomic

MAX_QUESTIONS = 1000
MAX_COST_QUESTIONS = 50
EXPLAIN = {
    "forget_quality": "p-value of the test against the retain model; above 0.05 the two cannot be told apart",
    "model_utility": "harmonic mean of what should stay: retain set, real authors, world facts",
    "forget/probability": "how likely the model finds the answers it should forget",
    "forget/rouge_l_recall": "how much of the forgotten answers it still writes out",
    "forget/truth_ratio": "true against wrong answers; 1 means it cannot tell them apart",
}


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run, or the comparison of several.

    Args:
        folders: Run folders.
        out: File to write; by default report.html in the run's folder, comparison.html beside several.

    Returns:
        The file that was written.

    Raises:
        DataError: A folder is not a run, or one of its records is damaged.
    """
    if not folders:
        raise ValueError("write_report needs at least one run folder")
    runs = [load_run(folder) for folder in folders]
    if len(runs) == 1:
        page, path = render_run(runs[0]), runs[0].folder / "report.html"
    else:
        page, path = render_comparison(runs), runs[0].folder.parent / "comparison.html"
    path = out or path
    write_atomic(path, page)
    return path


def run_verdict(run: LoadedRun) -> Verdict:
    """The verdict that the run recorded, else one made from the results that are there."""
    if run.summary is not None:
        return run.summary.verdict
    benchmark = next(iter(run.benchmarks()), "")
    return verdict.make_verdict(*(run.result(role, benchmark) for role in ("target", "unlearned", "retain")))


def render_run(run: LoadedRun) -> str:
    """The page about one run, as text."""
    benchmark = next(iter(run.benchmarks()), "")
    results = {role: run.result(role, benchmark) for role in ROLES}
    unlearned = results["unlearned"]
    path = run.trajectory(benchmark)
    return render(
        "run.html.j2",
        run=run,
        title=run.name,
        subtitle=_subtitle(run),
        verdict=run_verdict(run),
        rules=verdict.rules(),
        missing=run.missing(),
        headlines=tables.headline_rows(run),
        metrics=tables.metric_rows(run),
        path=path,
        selected=unlearned,
        trajectory=_markup(
            plots.trajectory(
                {"unlearned": path},
                results["target"],
                results["retain"],
                unlearned.step if unlearned else None,
            )
        ),
        losses=_markup(plots.losses(run.train)),
        completions=completion_section(run),
        audits=audit_sections(run),
        caveats=[line for line in caveats(run, unlearned) if line],
        recipe=yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True, width=100),
        **_sample_sections(run, results),
    )


def _subtitle(run: LoadedRun) -> str:
    data, model = run.recipe.get("data", {}), run.recipe.get("model", {})
    split = data.get("split")
    parts = {
        "method": run.recipe.get("method", {}).get("name"),
        "data": f"{data.get('name')}/{split}" if split else data.get("name"),
        "model": model.get("name") or ("built from nothing" if model.get("scratch") else None),
        "made": run.manifest.created if run.manifest else None,
    }
    return " · ".join(f"{name} {part}" for name, part in parts.items() if part)


def _sample_sections(run: LoadedRun, results: Mapping[str, BenchmarkResult | None]) -> dict[str, Any]:
    """What rests on per-sample rows: truth ratios and the question tables."""
    rows = {role: run.samples(result) for role, result in results.items()}
    ratios = {
        role: [row["truth_ratio"] for row in rows[role] if row.get("set") == "forget" and row.get("truth_ratio")]
        for role in ROLES
    }
    forget = questions.compare(rows["target"], rows["unlearned"], rows["retain"], "forget")
    retain = questions.compare(rows["target"], rows["unlearned"], rows["retain"], "retain")
    cost = sorted((question for question in retain if question.loss > 0), key=lambda question: -question.loss)
    return {
        "ecdf": _markup(plots.ecdf({role: values for role, values in ratios.items() if values})),
        "forget": forget[:MAX_QUESTIONS],
        "num_forget": len(forget),
        "cost": cost[:MAX_COST_QUESTIONS],
        "num_retain": len(retain),
    }


def render_comparison(runs: Sequence[LoadedRun]) -> str:
    """The page about several runs, as text."""
    names = _distinct_names(runs)
    benchmark = next((name for run in runs for name in run.benchmarks()), "")
    first = {role: _first_result(runs, role, benchmark) for role in ("target", "retain")}
    rows = {name: {(row.benchmark, row.name): row for row in tables.headline_rows(run)} for name, run in
            zip(names, runs, strict=True)}  # fmt: skip
    labels = {key: row.label for found in rows.values() for key, row in found.items()}
    differing = differences(dict(zip(names, (run.recipe for run in runs), strict=True)))
    return render(
        "compare.html.j2",
        title="Comparison of runs",
        names=names,
        runs=dict(zip(names, runs, strict=True)),
        verdicts={name: run_verdict(run) for name, run in zip(names, runs, strict=True)},
        columns=list(labels),
        labels=labels,
        rows=rows,
        absent=Value.missing("a benchmark of this run that reports it"),
        differences=differing,
        incomparable=[
            key
            for key in differing
            if key.startswith(("data.", "retain_model", "model.retain_model", "prompt", "evaluate.benchmarks"))
        ],
        trajectory=_markup(
            plots.trajectory(
                {name: run.trajectory(benchmark) for name, run in zip(names, runs, strict=True)},
                first["target"],
                first["retain"],
            )
        ),
    )


def differences(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Settings that are not the same in every recipe: dotted key -> run -> value."""
    flat = {name: _flatten(recipe) for name, recipe in recipes.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    return {
        key: {name: values.get(key, "not set") for name, values in flat.items()}
        for key in keys
        if key not in {"name", "description"} and len({values.get(key) for values in flat.values()}) > 1
    }


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        return {
            key: text
            for name, part in value.items()
            for key, text in _flatten(part, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).strip(" \n.")}


def _distinct_names(runs: Sequence[LoadedRun]) -> list[str]:
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    folders = [run.folder.resolve().name for run in runs]
    if len(set(folders)) == len(folders):
        return folders
    return [f"{folder} ({number})" for number, folder in enumerate(folders, start=1)]


def _first_result(runs: Sequence[LoadedRun], role: str, benchmark: str) -> BenchmarkResult | None:
    return next((result for run in runs if (result := run.result(role, benchmark))), None)


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)


def render(template: str, **context: Any) -> str:
    """A page from a template of this room, with everything in it escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("expunge.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=tables.format_number,
        role_title=tables.role_title,
        point=tables.format_point,
        interval=tables.format_interval,
        note=tables.format_note,
        duration=duration,
        size=size,
    )
    room = resources.files("expunge.report") / "templates"
    script = (room / "table.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup((room / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        roles=ROLES,
        explain=EXPLAIN,
        **context,
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> duration(3723), duration(4.2)
        ('1 h 2 min', '4.2 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def size(num_bytes: float) -> str:
    """Bytes in the unit that fits.

    Example:
        >>> size(3_500_000_000)
        '3.26 GiB'
    """
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} GiB"

"""The report: a self-contained HTML page about one run, or a comparison of several."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from expunge.records import BenchmarkResult, Value, Verdict, format
from expunge.report import plots, tables
from expunge.report.audits import audits_view, cost_in_words
from expunge.report.caveats import about_audits, caveats
from expunge.report.load import ROLES, LoadedRun, load_audits, load_run
from expunge.report.sections import section_views
from expunge.rundir import write_atomic


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


def write_audit_report(folder: Path) -> Path:
    """Write audit.html, about the audits of a model that is not a run, into the folder of their records.

    Raises:
        DataError: A record is damaged.
    """
    audits, battery = load_audits(folder)
    view = audits_view(folder, audits, battery)
    path = folder / "audit.html"
    limits = about_audits(audits, battery)
    write_atomic(path, render("audit.html.j2", title="Audit", audits=view, caveats=limits))
    return path


def run_verdict(run: LoadedRun) -> Verdict:
    """Return the verdict that the run recorded; an unfinished run has none yet."""
    if run.summary is not None:
        return run.summary.verdict
    return Verdict(forgot=None, kept=None, sentence="The run is unfinished, so there is no verdict yet.")


@dataclass(frozen=True)
class Trajectory:
    """Results of the unlearned model with one benchmark, epoch by epoch."""

    benchmark: str
    """Title of the benchmark."""
    figure: Markup | None
    path: list[BenchmarkResult]
    columns: dict[str, str]
    """Metric -> title, of the table's columns."""


def trajectories(run: LoadedRun) -> list[Trajectory]:
    """Return the trajectory of every benchmark that was measured more than once or declares axes."""
    views = []
    for benchmark in run.benchmarks():
        path, selected = run.trajectory(benchmark), run.result("unlearned", benchmark)
        axes = next((result.axes for result in path if result.axes is not None), None)
        if not path or (axes is None and len(path) < 2):
            continue
        figure = None
        if axes is not None:
            figure = plots.trajectory(
                {"unlearned": path},
                run.result("target", benchmark),
                run.result("retain", benchmark),
                axes,
                selected.step if selected else None,
                f"path-{benchmark}",
            )
        names = dict.fromkeys([*path[-1].headlines, *([axes.forget_fallback] if axes and axes.forget_fallback else [])])
        columns = {name: tables.metric_title(name, path[-1].labels) for name in names}
        views.append(Trajectory(run.title(benchmark), _markup(figure), path, columns))
    return views


def render_run(run: LoadedRun) -> str:
    """Return the page about one run."""
    verdict = run_verdict(run)
    return render(
        "run.html.j2",
        run=run,
        title=run.name,
        subtitle=_subtitle(run),
        verdict=verdict,
        missing=run.missing(),
        headlines=tables.headline_rows(run),
        metrics=tables.metric_rows(run),
        trajectories=trajectories(run),
        sections=section_views(run),
        losses=_markup(plots.losses(run.train)),
        audits=audits_view(run.folder, run.audits, run.battery),
        caveats=caveats(run, verdict),
        recipe=yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True, width=100),
    )


def _subtitle(run: LoadedRun) -> str:
    data, model = run.recipe.get("data", {}), run.recipe.get("model", {})
    split = data.get("split")
    parts = {
        "method": run.recipe.get("method", {}).get("name"),
        "data": f"{data.get('name')}/{split}" if split else data.get("name"),
        "model": model.get("name") or ("trained from scratch" if model.get("scratch") else None),
        "created": run.manifest.created if run.manifest else None,
    }
    return " · ".join(f"{name} {part}" for name, part in parts.items() if part)


def render_comparison(runs: Sequence[LoadedRun]) -> str:
    """Return the page about several runs."""
    by_name = dict(zip(_distinct_names(runs), runs, strict=True))
    rows = {
        name: {(row.benchmark, row.name): row for row in tables.headline_rows(run)} for name, run in by_name.items()
    }
    titles = {key: row.title for by_key in rows.values() for key, row in by_key.items()}
    differing = differences({name: run.recipe for name, run in by_name.items()})
    return render(
        "compare.html.j2",
        title="Comparison of runs",
        names=list(by_name),
        runs=by_name,
        verdicts={name: run_verdict(run) for name, run in by_name.items()},
        columns=list(titles),
        labels=titles,
        rows=rows,
        absent=Value.missing("a benchmark of this run that reports it"),
        differences=differing,
        incomparable=incomparable(differing),
        trajectory=_common_trajectory(by_name),
    )


def _common_trajectory(runs: Mapping[str, LoadedRun]) -> Markup | None:
    """Plot the trajectories of several runs with the first benchmark that declares axes."""
    for benchmark in dict.fromkeys(name for run in runs.values() for name in run.benchmarks()):
        paths = {name: run.trajectory(benchmark) for name, run in runs.items()}
        axes = next((result.axes for path in paths.values() for result in path if result.axes), None)
        if axes is not None:
            target, retain = (
                next((result for run in runs.values() if (result := run.result(role, benchmark))), None)
                for role in ("target", "retain")
            )
            return _markup(plots.trajectory(paths, target, retain, axes))
    return None


def differences(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the settings that differ between recipes: dotted key -> run -> value."""
    flat = {name: _flatten(recipe) for name, recipe in recipes.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    return {
        key: {name: values.get(key, "not set") for name, values in flat.items()}
        for key in keys
        if key not in {"name", "description"} and len({values.get(key) for values in flat.values()}) > 1
    }


def incomparable(settings: Iterable[str]) -> list[str]:
    """Return the settings, of those that differ, with which the values of runs do not compare."""
    measured = ("data.", "retain_model", "model.retain_model", "prompt", "evaluate.benchmarks")
    return [key for key in settings if key.startswith(measured)]


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


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)


def render(template: str, **context: Any) -> str:
    """Render a page from a template of this package; all inserted text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("expunge.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=format.format_number,
        role_title=tables.role_title,
        point=format.format_point,
        interval=format.format_interval,
        note=format.format_note,
        cost=cost_in_words,
        duration=duration,
        size=size,
    )
    room = resources.files("expunge.report") / "templates"
    return environment.get_template(template).render(
        style=Markup((room / "style.css").read_text(encoding="utf-8")),
        script=Markup(_script()),
        content_policy=content_policy(),
        roles=ROLES,
        **context,
    )


def _script() -> str:
    return (resources.files("expunge.report") / "templates" / "table.js").read_text(encoding="utf-8")


def content_policy() -> str:
    """Return the Content-Security-Policy of a report: its own script, its styles, and nothing from elsewhere."""
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def duration(seconds: float) -> str:
    """Format seconds for people.

    Example:
        >>> duration(3723), duration(4.2)
        ('1 h 2 min', '4.2 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def size(num_bytes: float) -> str:
    """Format bytes in a suitable unit.

    Example:
        >>> size(3_500_000_000)
        '3.26 GiB'
    """
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} GiB"

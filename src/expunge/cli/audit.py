"""`expunge audit`: attack a finished model and its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.options import AsJson, DataName, MemberSettings, Split, split_settings, work_offline_if_needed
from expunge.cli.output import print_columns, print_json, results_only
from expunge.console import print_result
from expunge.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from expunge.records import AuditPlan, Battery


def audit(
    model: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="Folder of a run, folder of a model, or hub id.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AUDIT]...", help="Names of audits, or Python files (default: those of the preset)."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Which audits run: quick, standard or full (default: quick).")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print passes, seconds and memory, and run nothing.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Control: the model before unlearning (default: the run's).")
    ] = None,
    retain_model: Annotated[
        str | None, typer.Option(help="Control: a model that never saw the forget set (default: the run's).")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Control: the model before it saw any of the data.")] = None,
    data: DataName = None,
    split: Split = None,
    settings: MemberSettings = None,
    out: Annotated[str | None, typer.Option(help="Folder for record and transcripts (default: the run's).")] = None,
    as_json: AsJson = False,
) -> None:
    """Attack a model, and run the same attacks on its controls."""
    work_offline_if_needed(model, target, retain_model, base, data)
    from expunge.commands import audit
    from expunge.commands.evaluate import data_section

    audit_settings, sections = split_settings(settings or [])
    rule: dict[str, Any] = {
        name: audit_settings.pop(name) for name in ("margin", "level", "utility_loss") if name in audit_settings
    }
    if audit_settings and len(names or []) != 1:
        raise ConfigError(
            [f"{next(iter(audit_settings))} belongs to one audit; name that audit alone"], source="the options"
        )
    controls = {"target": target, "retain": retain_model, "base": base}
    config: dict[str, Any] = {
        **sections,
        **rule,
        "model": {"name": model, **sections.get("model", {})},
        "audits": [{"name": name, **audit_settings} for name in names or []],
        "preset": preset,
        "controls": {role: path for role, path in controls.items() if path is not None},
        "data": data_section(data, split, sections.get("data", {})),
    }
    with results_only():
        if plan:
            planned = audit.plan(config)
        else:
            try:
                result = audit.audit(config, out=out)
            except Interrupted as error:
                is_kept = out is not None or (Path(model) / "recipe.yaml").is_file()
                where = f"in {out or model}" if is_kept else "lost, because no folder was given (--out)"
                raise Interrupted(where) from error
    if plan:
        print_json(planned) if as_json else _print_plan(planned)
    elif as_json:
        print_json(result)
    else:
        _print_battery(result, Path(out or model))


def _print_plan(plan: AuditPlan) -> None:
    rows = [
        [entry.audit, ", ".join(entry.arms), f"{entry.passes:g}", f"{entry.seconds:.0f}", f"{entry.memory / 2**30:.2f}"]
        for entry in plan.audits
    ]
    print_columns(["Audit", "Models", "Passes", "Seconds", "Memory (GiB)"], rows)
    print_result(f"About {sum(entry.seconds for entry in plan.audits):.0f} s in all.")
    for name, reason in plan.not_run.items():
        print_result(f"{name} would not be run: {reason}.")


def _print_battery(battery: Battery, folder: Path) -> None:
    from expunge.records.format import format_value
    from expunge.report.tables import role_title

    arms = list(battery.arms)
    print_columns(
        ["Audit", "Attempt", *(role_title(arm) for arm in arms), "D", "R", "Outcome"],
        [
            [
                finding.audit,
                f"{finding.attempt} ({finding.measure})",
                *(format_value(finding.after[arm]) if arm in finding.after else "" for arm in arms),
                format_value(finding.effect),
                format_value(finding.residual),
                finding.outcome if finding.counted else f"not counted: {finding.not_counted}",
            ]
            for finding in battery.findings
        ],
    )
    print_result(battery.verdict)
    for line in battery.notes:
        print_result(line)
    if (folder / "battery.json").is_file():
        print_result(f"Records and transcripts: {folder / 'audits'}, {folder / 'samples'}")

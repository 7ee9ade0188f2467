"""Attack a finished model and its controls, and record what they gave away."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator

from expunge import distributed
from expunge.audits.base import AUDITED, CONTROLS, Audit, SampleRow
from expunge.config.defaults import changed
from expunge.config.load import load_recipe, parse
from expunge.config.members import AuditField
from expunge.config.recipe import DataConfig, Measure, Model, Prompt, Section, TofuData
from expunge.console import interruptible, is_main_process, note
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Sets
from expunge.errors import DataError, nearest
from expunge.modeling.load import load_tokenizer
from expunge.modeling.opening import check_same_tokens, measuring_template, open_model
from expunge.modeling.tokenizers import fix_date
from expunge.records import ROLE_NAMES, AuditResult, Manifest
from expunge.report.html import write_report
from expunge.rundir import read_record, write_record
from expunge.runs.evaluator import Evaluator
from expunge.runs.results import without_text, write_rows


class AuditConfig(Section):
    """Everything that an audit depends on; for a run, data, prompt and controls are the run's own."""

    model: Model
    """The model to attack; a string is the name: a run's folder, a model's folder or a hub id."""
    audit: AuditField = Field(default="leaks", validate_default=True)
    """A name, or {name: ..., settings}."""
    controls: dict[str, str] = Field(default_factory=dict)
    """Role -> folder or hub id of a control: 'target' (the model before unlearning), 'retain' (the retain model) and
    'base' (the model before it saw any of the data)."""
    data: DataConfig | None = None
    """The forget set; None for the run's own, or for TOFU on the hub."""
    prompt: Prompt | None = None
    """How questions become text; None for the run's own, or for the tokenizer's chat template."""

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"name": str(value)} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model.name is None:
            raise ValueError("model.name is missing: the model to attack")
        if self.model.adapter is not None and not self.is_run:
            raise ValueError("model.adapter has no effect: an adapter is attacked as it is, on its base model")
        for role in self.controls:
            if role not in CONTROLS:
                raise ValueError(f"controls: '{role}' is not a control. {nearest(role, CONTROLS)}")
        if not self.is_run:
            return self
        dead = [name for name in ("data", "prompt") if getattr(self, name) is not None]
        dead += [f"model.{name}" for name in changed(self.model, *type(self.model).model_fields) if name != "name"]
        if dead:
            raise ValueError(f"{dead[0]} has no effect on a run's folder: it comes from the run itself; leave it out")
        return self

    @property
    def is_run(self) -> bool:
        """Whether the model is a run's folder."""
        return (Path(str(self.model.name)) / "recipe.yaml").is_file()


@dataclass(frozen=True)
class _Case:
    """One model with its controls, on one data set."""

    arms: dict[str, str]
    """Role -> folder or hub id."""
    revisions: dict[str, str | None]
    """Role -> revision on the hub; a role without one has the default revision."""
    config: Model
    data: DataConfig
    prompt: Prompt | None
    measure: Measure
    cache: Path | None
    out: Path | None
    notes: tuple[str, ...] = ()


def audit(config: AuditConfig | Mapping[str, Any], *, out: str | Path | None = None) -> AuditResult:
    """Attack a model, and run the same attack on its controls.

    Args:
        config: The audit, such as {"model": "runs/tofu-forget10-npo-1a2b3c"} or
            {"model": "./my-model", "audit": "leaks", "controls": {"retain": "./retain90"}, "data": {"name": "tofu"}}.
        out: Folder for record and transcripts; for a run, the run's folder.

    Returns:
        The result; with a folder it is also in `audits/<name>.json`, the transcripts in `samples/`.

    Raises:
        UserError: Model, data, controls or settings cannot be used; the message states what to change.
    """
    if not isinstance(config, AuditConfig):
        config = parse(dict(config), AuditConfig, source="the settings of the audit")
    folder = None if out is None else Path(out)
    case = _case_of_run(config, folder) if config.is_run else _case_of_model(config, folder)
    distributed.start()
    with interruptible():
        return _run(config.audit, case)


def _case_of_model(config: AuditConfig, out: Path | None) -> _Case:
    return _Case(
        arms={AUDITED: str(config.model.name), **config.controls},
        revisions={AUDITED: config.model.revision},
        config=config.model,
        data=config.data or TofuData(),
        prompt=config.prompt,
        measure=Measure(),
        cache=None if out is None else out / "evaluations",
        out=out,
    )


def _case_of_run(config: AuditConfig, out: Path | None) -> _Case:
    folder = Path(str(config.model.name))
    checkpoint, manifest = folder / "checkpoint", folder / "manifest.json"
    if not checkpoint.is_dir() or not manifest.is_file():
        raise DataError(f"the run {folder} is not finished.", fix="Repeat its command; it resumes where it stopped.")
    models = read_record(manifest, Manifest).models
    recipe = load_recipe(folder / "recipe.yaml")
    arms = {AUDITED: str(checkpoint)}
    notes = []
    for role in ("target", "retain"):
        path = _current_path(models.get(role, ""), folder)
        if path.endswith(".json"):
            notes.append("The run's retain model is a stored evaluation, and an attack needs the model itself.")
        elif path:
            arms[role] = path
    # Models that the run has trained, and controls that are given by name, have no revision.
    loaded = {
        "target": (recipe.model.name, recipe.model.revision),
        "retain": (recipe.model.retain_model, recipe.model.retain_model_revision),
    }
    arms |= config.controls
    return _Case(
        arms=arms,
        revisions={role: revision for role, (name, revision) in loaded.items() if arms.get(role) == name},
        config=recipe.model,
        data=recipe.data,
        prompt=recipe.prompt,
        measure=recipe.evaluate,
        cache=folder.parent / "shared" / "evaluations",
        out=out or folder,
        notes=tuple(notes),
    )


def _current_path(name: str, folder: Path) -> str:
    """Return the path of a run's model; paths are recorded as seen from where the run was started."""
    moved = folder.parent / "shared" / Path(*Path(name).parts[-2:]) if "shared" in Path(name).parts else None
    return str(moved) if moved is not None and not Path(name).exists() and moved.is_dir() else name


def _run(attack: Audit, case: _Case) -> AuditResult:
    started = time.monotonic()
    sets = prepare_sets(case.data)
    audited, trusted = case.arms[AUDITED], case.config.trust_remote_code
    tokenizer = load_tokenizer(audited, case.revisions.get(AUDITED), trusted)
    case = replace(case, prompt=fix_date(measuring_template(tokenizer, case.prompt), case.out, audited))
    template = measuring_template(tokenizer, case.prompt)
    for role, name in case.arms.items():
        check_same_tokens(name, ROLE_NAMES[role], case.config, template, case.revisions.get(role))
    rows: dict[str, list[SampleRow]] = {}
    for role, name in case.arms.items():
        note(f"Attacking the {ROLE_NAMES[role]} {name} with {attack.name}.")
        rows[role] = _attack(attack, case, role, sets, tokenizer)
    result = attack.findings(rows)
    samples = f"samples/audit-{attack.key}.parquet" if case.out is not None else ""
    result = result.model_copy(
        update={
            "arms": case.arms,
            "notes": [*case.notes, *result.notes],
            "samples": samples,
            "seconds": round(time.monotonic() - started, 3),
        }
    )
    if case.out is not None and is_main_process():
        transcripts = [{"arm": role, **row} for role, arm_rows in rows.items() for row in arm_rows]
        write_rows(case.out / samples, [without_text(row) for row in transcripts] if sets.sensitive else transcripts)
        write_record(case.out / f"audits/{attack.key}.json", result)
        if (case.out / "recipe.yaml").is_file():
            write_report([case.out])
    distributed.wait()
    return result


def _attack(attack: Audit, case: _Case, role: str, sets: Sets, tokenizer: Any) -> list[SampleRow]:
    """Load one model, attack it and release it: never two models in memory."""
    name = case.arms[role]
    model = open_model(case.config, name, tokenizer, revision=case.revisions.get(role))
    template = measuring_template(tokenizer, case.prompt, model)
    dtype = getattr(torch, case.config.dtype)
    evaluator = Evaluator(sets, template, case.measure, cache=case.cache, dtype=dtype)
    with torch.autocast(next(model.parameters()).device.type, dtype, enabled=dtype != torch.float32):
        return attack.attack(evaluator.session(model, f"the {ROLE_NAMES[role]}"))

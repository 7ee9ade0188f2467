"""Attack a finished model and its controls with one or several audits, and record what came back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator

from expunge import distributed
from expunge.audits.base import AUDITED, CONTROLS, Attempt, Audit
from expunge.audits.shared.arm import Arm
from expunge.audits.shared.attempts import check_attempts
from expunge.audits.shared.findings import Rule, combine
from expunge.audits.shared.outcomes import forget_rows, measure_rows, spread
from expunge.audits.shared.presets import PRESETS, Preset
from expunge.config.defaults import changed
from expunge.config.load import load_recipe, parse
from expunge.config.members import AuditField
from expunge.config.recipe import DataConfig, Measure, Model, Prompt, Section, TofuData
from expunge.console import interruptible, is_main_process, note
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Sets, data_hashes
from expunge.data.templates import Template
from expunge.errors import DataError, UserError, nearest
from expunge.locking import locked
from expunge.modeling.forward import text_config
from expunge.modeling.load import load_tokenizer, local_digest
from expunge.modeling.opening import check_same_tokens, measuring_template, open_model
from expunge.modeling.tokenizers import fix_date
from expunge.probes.session import Session
from expunge.records import ROLE_NAMES, AuditPlan, AuditResult, Battery, PlannedAudit
from expunge.report.html import write_audit_report, write_report
from expunge.rundir import LOCK, write_record
from expunge.runs.attempts import AttemptStore, with_seconds
from expunge.runs.evaluator import Evaluator
from expunge.runs.finished import manifest_of_run, models_of_run
from expunge.runs.results import write_rows

_TIMED_ROWS = 64
"""Rows of the timed pass of a plan."""


class AuditConfig(Section):
    """Everything that an audit depends on; for a run, data, prompt and controls are the run's own."""

    model: Model
    """The model to attack; a string is the name: a run's folder, a model's folder or a hub id."""
    audits: list[AuditField] = Field(default=[])
    """Names, or {name: ..., settings}; empty for those of the preset."""
    preset: Preset | None = None
    """'quick', 'standard' or 'full': which audits run, with which settings; null for 'quick' if no audit is named."""
    margin: float = Field(default=0.05, gt=0, lt=1)
    """Largest excess over the retain model that counts as none."""
    level: float = Field(default=0.05, gt=0, lt=0.5)
    """Significance level of all attempts together."""
    utility_loss: float = Field(default=0.2, gt=0, le=1)
    """Largest relative loss of the probability of retain answers with which an attempt counts."""
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
        if self.audits and self.preset is not None:
            raise ValueError("preset has no effect beside audits; name the audits or the preset")
        keys = [audit.key for audit in self.audits]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"audits: '{repeated[0]}' is named twice")
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
    def rule(self) -> Rule:
        """How findings are judged."""
        return Rule(margin=self.margin, level=self.level, utility_loss=self.utility_loss)

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
    """Folder of cached scores."""
    attempts: Path | None
    """Folder of finished attempts; runs next to each other share it, so that a control is attacked once for all."""
    out: Path | None
    notes: tuple[str, ...] = ()


def audit(config: AuditConfig | Mapping[str, Any], *, out: str | Path | None = None) -> Battery:
    """Attack a model with one or several audits, and run the same attacks on its controls.

    Args:
        config: The audits, such as {"model": "runs/tofu-forget10-npo-1a2b3c", "preset": "standard"} or
            {"model": "./my-model", "audits": ["leaks", {"name": "quantize", "precisions": ["int4"]}],
            "controls": {"retain": "./retain90"}, "data": {"name": "tofu"}}.
        out: Folder for records and transcripts; for a run, the run's folder.

    Returns:
        The verdict of all audits; with a folder it is also in `battery.json`, the result of each audit in
        `audits/<name>.json` and the transcripts in `samples/`. A repeated command resumes after the last finished part
        of an attack, and runs nothing twice.

    Raises:
        UserError: Model, data, controls or settings cannot be used; the message states what to change.
    """
    config = _parse(config)
    case = _case(config, out)
    distributed.start()
    with interruptible():
        if case.out is None:
            return _run(config, case)
        with locked(case.out / LOCK, f"the folder {case.out}"):
            return _run(config, case)


def plan(config: AuditConfig | Mapping[str, Any]) -> AuditPlan:
    """Return what the audits would cost, without running them.

    The audited model is loaded, and one scoring pass of up to 64 forget rows is timed.

    Raises:
        UserError: As `audit`.
    """
    config = _parse(config)
    bench = _Bench.open(_case(config, None))
    chosen, not_run = _choose(config, bench)
    arm = bench.arm(AUDITED)
    weight = next(arm.model.parameters())
    rows = spread(forget_rows(bench.sets).rows, _TIMED_ROWS)
    started = time.monotonic()
    measure_rows(arm.session_with(arm.model), rows, "probability")
    seconds = (time.monotonic() - started) * len(forget_rows(bench.sets)) / len(rows)
    # The parameters, and not the state dict, which has tied weights twice.
    tensors = [*arm.model.parameters(), *arm.model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    num_layers = getattr(text_config(arm.model.config), "num_hidden_layers", 0)
    entries = []
    for attack in chosen:
        work, arms = attack.workload(bench.sets), [role for role in bench.case.arms if role in attack.arms]
        # AdamW keeps the weights, their gradient and two moments in float32.
        copies = work.models * size + (4 * 4 * size // weight.element_size() if work.training else 0)
        passes = (work.passes + work.passes_per_layer * num_layers) * len(arms) + work.once
        entries.append(
            PlannedAudit(
                audit=attack.key, arms=arms, passes=passes, seconds=round(passes * seconds, 1), memory=int(copies)
            )
        )
    arm.release()
    return AuditPlan(audits=entries, not_run=not_run, seconds_per_pass=round(seconds, 3))


def _parse(config: AuditConfig | Mapping[str, Any]) -> AuditConfig:
    if not isinstance(config, AuditConfig):
        config = parse(dict(config), AuditConfig, source="the settings of the audit")
    if config.audits:
        return config
    preset = config.preset or "quick"
    named = {**config.model_dump(mode="python", exclude_unset=True), "audits": PRESETS[preset], "preset": None}
    return parse(named, AuditConfig, source=f"the preset {preset}").model_copy(update={"preset": preset})


def _case(config: AuditConfig, out: str | Path | None) -> _Case:
    folder = None if out is None else Path(out)
    return _case_of_run(config, folder) if config.is_run else _case_of_model(config, folder)


def _case_of_model(config: AuditConfig, out: Path | None) -> _Case:
    return _Case(
        arms={AUDITED: str(config.model.name), **config.controls},
        revisions={AUDITED: config.model.revision},
        config=config.model,
        data=config.data or TofuData(),
        prompt=config.prompt,
        measure=Measure(),
        cache=None if out is None else out / "evaluations",
        attempts=None if out is None else out / "audits" / "attempts",
        out=out,
    )


def _case_of_run(config: AuditConfig, out: Path | None) -> _Case:
    folder = Path(str(config.model.name))
    # A run of another version is refused as such, before its recipe, whose keys may have changed.
    manifest_of_run(folder)
    recipe = load_recipe(folder / "recipe.yaml")
    models = models_of_run(folder, recipe.model)
    notes = []
    if models.stored_retain_model:
        notes.append("The run's retain model is a stored evaluation, and an attack needs the model itself.")
    arms = {**models.names, **config.controls}
    return _Case(
        arms=arms,
        # A control that is given by name has no revision, unless it is the run's own.
        revisions={role: revision for role, revision in models.revisions.items() if arms[role] == models.names[role]},
        config=recipe.model,
        data=recipe.data,
        prompt=recipe.prompt,
        measure=recipe.evaluate,
        cache=folder.parent / "shared" / "evaluations",
        attempts=folder.parent / "shared" / "attempts",
        out=out or folder,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Bench:
    """A case with its data, prompt and tokenizer."""

    case: _Case
    sets: Sets
    tokenizer: Any
    template: Template
    digests: dict[str, str]
    """Role -> what identifies its model: a hash of its files, or its hub id and revision."""

    @classmethod
    def open(cls, case: _Case) -> _Bench:
        """Read the data, and check that all models read the same tokens."""
        sets = prepare_sets(case.data)
        audited, trusted = case.arms[AUDITED], case.config.trust_remote_code
        tokenizer = load_tokenizer(audited, case.revisions.get(AUDITED), trusted)
        case = replace(case, prompt=fix_date(measuring_template(tokenizer, case.prompt), case.out, audited))
        template = measuring_template(tokenizer, case.prompt)
        for role, name in case.arms.items():
            check_same_tokens(name, ROLE_NAMES[role], case.config, template, case.revisions.get(role))
        digests = {role: local_digest(name) or f"{name}@{case.revisions.get(role)}" for role, name in case.arms.items()}
        return cls(case, sets, tokenizer, template, digests)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of forward passes."""
        dtype: torch.dtype = getattr(torch, self.case.config.dtype)
        return dtype

    def arm(self, role: str) -> Arm:
        """Return one model of the case, which is loaded when it is first used."""
        return Arm(role, self.case.arms, self.sets, self.template, opener=self._open_arm, sessions=self._session)

    def _open_arm(self, role: str) -> Any:
        case = self.case
        return open_model(case.config, case.arms[role], self.tokenizer, revision=case.revisions.get(role)).eval()

    def _session(self, model: Any, label: str, attack: Any) -> Session:
        case = self.case
        template = measuring_template(self.tokenizer, case.prompt, model)
        evaluator = Evaluator(self.sets, template, case.measure, cache=case.cache, dtype=self.dtype)
        return evaluator.session(model, label, attack)


def _run(config: AuditConfig, case: _Case) -> Battery:
    bench = _Bench.open(case)
    chosen, not_run = _choose(config, bench)
    out, rule = bench.case.out, config.rule
    store = AttemptStore(bench.case.attempts, bench.sets.sensitive)
    attempts: dict[str, dict[str, list[Attempt]]] = {attack.key: {} for attack in chosen}
    work = [(role, attack) for role in bench.case.arms for attack in chosen if role in attack.arms]
    progress = _Progress(sum(len(attack.stages_on(role, bench.sets)) for role, attack in work))
    for role in bench.case.arms:
        arm = bench.arm(role)
        for attack in (attack for where, attack in work if where == role and attack.key not in not_run):
            try:
                attempts[attack.key][role] = _attack(attack, arm, bench, store, progress)
            except UserError as error:
                # One attack that does not fit these models must not stop the others.
                if len(chosen) == 1:
                    raise
                not_run[attack.key] = str(error).rstrip(".")
                note(f"The audit {attack.key} is stopped: {error}")
        arm.release()
    chosen = [attack for attack in chosen if attack.key not in not_run]
    if not chosen:
        raise DataError("no audit could be run; the reasons are above.")
    results = [_record(attack, attempts[attack.key], bench, rule) for attack in chosen]
    battery = combine(results, not_run, rule, config.preset or "")
    if out is not None and is_main_process():
        write_record(out / "battery.json", battery)
        if (out / "recipe.yaml").is_file():
            write_report([out])
        else:
            write_audit_report(out)
    distributed.wait()
    return battery


def _choose(config: AuditConfig, bench: _Bench) -> tuple[list[Audit], dict[str, str]]:
    """Return the audits that can run, and why the others cannot.

    Raises:
        DataError: None of them can run.
    """
    chosen: list[Audit] = []
    not_run: dict[str, str] = {}
    for attack in config.audits:
        missing = [ROLE_NAMES[role] for role in attack.controls_needed() if role not in bench.case.arms]
        if missing:
            not_run[attack.key] = f"needs the {' and the '.join(missing)}"
            continue
        try:
            attack.stages(bench.sets)
        except UserError as error:
            not_run[attack.key] = str(error).rstrip(".")
        else:
            chosen.append(attack)
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
        raise DataError(f"no audit can run on {bench.case.arms[AUDITED]}: {reasons}.")
    for name, reason in not_run.items():
        note(f"The audit {name} is not run: {reason}.")
    return chosen, not_run


@dataclass
class _Progress:
    """Stages of all attacks on all models."""

    total: int
    done: int = 0


def _attack(attack: Audit, arm: Arm, bench: _Bench, store: AttemptStore, progress: _Progress) -> list[Attempt]:
    """Run all stages of an audit on one model; finished ones are read from the store."""
    stages = attack.stages_on(arm.role, bench.sets)
    identity = {
        "audit": attack.spec(),
        "files": [local_digest(name) for name in attack.files()],
        "models": {role: bench.digests.get(role) for role in (arm.role, *attack.controls_needed(), *attack.uses)},
        "data": data_hashes(bench.sets),
        "prompt": bench.template.fingerprint,
        "dtype": str(bench.dtype),
        "sensitive": bench.sets.sensitive,
    }
    attempts: list[Attempt] = []
    for number, stage in enumerate(stages, start=1):

        def run(stage: str = stage) -> list[Attempt]:
            what = attack.key if stage == attack.key else f"{attack.key}, {stage}"
            note(f"[{progress.done + 1} of {progress.total}] Attacking {arm.label} {arm.name} with {what}.")
            started = time.monotonic()
            device = next(arm.model.parameters()).device.type
            with torch.autocast(device, bench.dtype, enabled=bench.dtype != torch.float32):
                found = attack.attack(arm, stage)
            where = f"the audit {attack.key} on {arm.label}" + (f", stage {stage}" if len(stages) > 1 else "")
            return with_seconds(check_attempts(found, where), time.monotonic() - started)

        name = f"{attack.key}-{arm.role}-{number}"
        attempts += store.attempts(name, {**identity, "role": arm.role, "stage": stage}, run)
        progress.done += 1
    return attempts


def _record(attack: Audit, attempts: Mapping[str, Sequence[Attempt]], bench: _Bench, rule: Rule) -> AuditResult:
    """Compare the models, and write the result and the transcripts of one audit."""
    out = bench.case.out
    result = attack.findings(attempts, rule)
    samples = f"samples/audit-{attack.key}.parquet" if out is not None else ""
    result = result.model_copy(
        update={
            "arms": {role: bench.case.arms[role] for role in attempts},
            "notes": [*bench.case.notes, *result.notes],
            "samples": samples,
            "seconds": round(sum(each.cost.seconds for found in attempts.values() for each in found), 3),
        }
    )
    if out is not None and is_main_process():
        transcripts = [
            {"arm": role, "view": attempt.name, "measure": attempt.measure, **row}
            for role, found in attack.calibrate(attempts).items()
            for attempt in found
            for row in attempt.rows
        ]
        write_rows(out / samples, transcripts)
        write_record(out / f"audits/{attack.key}.json", result)
    return result

"""Attacks a finished model and its controls, and writes down what they gave away."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge import distributed
from expunge.audits.base import AUDITED, Audit, SampleRow
from expunge.commands.evaluate import data_section
from expunge.config.load import load_recipe, parse, parse_member
from expunge.config.recipe import DataConfig, Model, Prompt, Section
from expunge.console import interruptible, is_main_process, note
from expunge.data.prepare import prepare_sets
from expunge.data.sets import Sets
from expunge.data.templates import Template
from expunge.errors import DataError, IncompatibleError, UserError
from expunge.modeling.fsdp import load_on_device
from expunge.modeling.load import check_tokenizer, context_length, device_of, load_model, load_tokenizer
from expunge.records import ROLE_NAMES, AuditResult, Manifest
from expunge.report.html import write_report
from expunge.rundir import read_record, write_record
from expunge.runs.evaluator import Evaluator, without_text, write_rows

BATCH_TOKENS = 8192


class Audited(Section):
    """Everything that an audit outside a run depends on; the same sections as in a recipe."""

    model: Model
    data: DataConfig
    prompt: Prompt | None = None


@dataclass(frozen=True)
class _Case:
    """One model with its controls, on one data set."""

    arms: dict[str, str]
    """Arm -> folder or hub id."""
    config: Model
    data: DataConfig
    prompt: Prompt | None
    batch_tokens: int
    cache: Path | None
    out: Path | None
    notes: tuple[str, ...] = ()


def audit(
    model: str | Path,
    name: str = "leaks",
    *,
    settings: Mapping[str, Any] | None = None,
    target: str | Path | None = None,
    retain_model: str | Path | None = None,
    base: str | Path | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    prompt: Prompt | Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
) -> AuditResult:
    """Attack a model, and run the same attack on its controls.

    Args:
        model: A run's folder, whose data, target and retain model are then used; or a model's folder or hub id.
        name: Name of an audit, or path of a Python file with one.
        settings: The audit's settings.
        target: The model before unlearning; for a run, the run's own.
        retain_model: A model that never saw the forget set; for a run, the run's own.
        base: The model before it saw any of the data.
        data: As in `evaluate`; for a run, the run's own.
        split: TOFU's split, as in `evaluate`.
        prompt: How questions become text; for a run, the run's own.
        options: Further settings of the sections 'model' and 'data', as in a recipe.
        out: Folder for record and transcripts; for a run, the run's folder.

    Returns:
        The result; with a folder it is also in `audits/<name>.json`, the transcripts in `samples/`.

    Raises:
        UserError: Model, data, controls or settings have to be put right first.
    """
    attack = parse_member("audit", {"name": name, **(settings or {})})
    assert isinstance(attack, Audit)
    arms = {"target": target, "retain": retain_model, "base": base}
    given = {arm: str(place) for arm, place in arms.items() if place is not None}
    place = None if out is None else Path(out)
    sections = dict(options or {})
    if not (Path(model) / "recipe.yaml").is_file():
        rows = data_section(None, data, split, dict(sections.pop("data", {})))
        case = _case_of_model({AUDITED: str(model), **given}, rows, prompt, sections, place)
    elif data is None and split is None and prompt is None and not options:
        case = _case_of_run(Path(model), given, place)
    else:
        raise UserError("data, split, prompt and options come from the run itself.", fix="Leave them out.")
    distributed.start()
    with interruptible():
        return _run(attack, case)


def _case_of_model(
    arms: dict[str, str],
    data: Mapping[str, Any] | None,
    prompt: Prompt | Mapping[str, Any] | None,
    options: Mapping[str, Any],
    out: Path | None,
) -> _Case:
    config = parse(
        {**options, "model": {"name": arms[AUDITED], **options.get("model", {})}, "data": data, "prompt": prompt},
        Audited,
        source="the settings of the audit",
    )
    cache = None if out is None else out / "evaluations"
    return _Case(arms, config.model, config.data, config.prompt, BATCH_TOKENS, cache, out)


def _case_of_run(folder: Path, given: dict[str, str], out: Path | None) -> _Case:
    recipe = load_recipe(folder / "recipe.yaml")
    checkpoint, manifest = folder / "checkpoint", folder / "manifest.json"
    if not checkpoint.is_dir() or not manifest.is_file():
        raise DataError(f"the run {folder} is not finished.", fix="Repeat its command; it goes on where it stopped.")
    models = read_record(manifest, Manifest).models
    arms = {AUDITED: str(checkpoint)}
    notes = []
    for arm in ("target", "retain"):
        place = _located(models.get(arm, ""), folder)
        if place.endswith(".json"):
            notes.append("The run's retain model is a stored evaluation, and an attack needs the model itself.")
        elif place:
            arms[arm] = place
    return _Case(
        arms={**arms, **given},
        config=recipe.model,
        data=recipe.data,
        prompt=recipe.prompt,
        batch_tokens=recipe.evaluate.batch_tokens,
        cache=folder.parent / "shared" / "evaluations",
        out=out or folder,
        notes=tuple(notes),
    )


def _located(name: str, folder: Path) -> str:
    """Where a run's model is now: its path was written down as seen from where the run was started."""
    moved = folder.parent / "shared" / Path(*Path(name).parts[-2:]) if "shared" in Path(name).parts else None
    return str(moved) if moved is not None and not Path(name).exists() and moved.is_dir() else name


def _run(attack: Audit, case: _Case) -> AuditResult:
    started = time.monotonic()
    sets = prepare_sets(case.data)
    tokenizer = load_tokenizer(case.arms[AUDITED], None, case.config.trust_remote_code)
    prompt = case.prompt or Prompt(style="chat" if tokenizer.chat_template else "plain")
    rows: dict[str, list[SampleRow]] = {}
    for arm, name in case.arms.items():
        note(f"Attacking the {ROLE_NAMES[arm]} {name} with {attack.name}.")
        rows[arm] = _attacked(attack, case, arm, sets, Template(tokenizer, prompt, max_length=1 << 30))
    result = attack.findings(rows)
    samples = f"samples/audit-{attack.name}.parquet" if case.out is not None else ""
    result = result.model_copy(
        update={
            "arms": case.arms,
            "notes": [*case.notes, *result.notes],
            "samples": samples,
            "seconds": round(time.monotonic() - started, 3),
        }
    )
    if case.out is not None and is_main_process():
        kept = [{"arm": arm, **row} for arm, found in rows.items() for row in found]
        write_rows(case.out / samples, [without_text(row) for row in kept] if sets.sensitive else kept)
        write_record(case.out / f"audits/{attack.name}.json", result)
        if (case.out / "recipe.yaml").is_file():
            write_report([case.out])
    distributed.wait()
    return result


def _attacked(attack: Audit, case: _Case, arm: str, sets: Sets, template: Template) -> list[SampleRow]:
    """Load one model, attack it and let it go: never two in memory."""
    name = case.arms[arm]
    own = load_tokenizer(name, None, case.config.trust_remote_code)
    if Template(own, template.prompt, template.max_length).fingerprint != template.fingerprint:
        raise IncompatibleError(
            f"the {ROLE_NAMES[arm]} {name} and the audited model have different tokenizers or prompts.",
            fix="Give controls that come from the same start model.",
        )
    dtype = getattr(torch, case.config.dtype)
    model = load_on_device(
        lambda device: load_model(name, config=case.config, dtype=dtype, device=device), device_of(case.config)
    )
    check_tokenizer(model, template.tokenizer, name)
    template = Template(template.tokenizer, template.prompt, max_length=context_length(model.config))
    evaluator = Evaluator(sets, template, case.batch_tokens, cache=case.cache, dtype=dtype)
    with torch.autocast(next(model.parameters()).device.type, dtype, enabled=dtype != torch.float32):
        return attack.attack(evaluator.session(model, f"the {ROLE_NAMES[arm]}"))

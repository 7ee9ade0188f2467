"""Limits of a run's verdict: what a reader can conclude from it, and what not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge import registry
from expunge.records import AuditResult, Battery, Verdict
from expunge.report.load import LoadedRun


def caveats(run: LoadedRun, verdict: Verdict) -> list[str]:
    """Return the limits of a run's verdict, most important first."""
    limits = [limit for judgement in verdict.judgements for limit in judgement.limits]
    notes = [
        *(limits or ["No benchmark drew a conclusion, so nothing here states how much of the forget set is gone."]),
        *about_audits(run.audits, run.battery),
        *_about_the_retain_model(run.recipe),
        *_about_selection(run),
        *_about_the_material(run),
    ]
    if run.recipe.get("published"):
        notes.append(
            "Published values beside ours are comparable only where model, data, prompt and number of rows agree."
        )
    return notes


def about_audits(audits: Sequence[AuditResult], battery: Battery | None) -> list[str]:
    """Return which attacks were run and which were not, and what follows from it."""
    if not audits:
        return [
            "No attack was run on this model. Knowledge that it does not show in these questions may come back with "
            "other prompts, repeated sampling, quantisation or a little training."
        ]
    done = [result.audit for result in audits]
    left = [name for name in registry.names("audit") if name not in done]
    reasons = {} if battery is None else battery.not_run
    not_run = ", ".join(f"{name} ({reasons[name]})" if name in reasons else name for name in left)
    notes = [
        f"Attacks that were run: {', '.join(done)}. Not run: {not_run or 'none of those in this package'}. Attacks "
        "that were not run, or other settings of these, may succeed."
    ]
    if battery is not None:
        apart = [name for name in done if name not in battery.audits]
        if apart:
            notes.append(
                f"{', '.join(apart)}: run by another command than the attacks of the verdict, so that their p-values "
                "are not adjusted for the number of all attempts."
            )
        if battery.outcome == "indistinguishable":
            notes.append(
                "Indistinguishable means: on these rows, with these attacks, within the stated margin. It is no proof "
                "that the knowledge is gone."
            )
        notes += battery.notes
    return notes


def _about_the_retain_model(recipe: dict[str, Any]) -> list[str]:
    if recipe.get("retain_model"):
        return ["The retain model was trained in this run, from the same base model as the target, on the retain set."]
    if recipe.get("model", {}).get("retain_model"):
        return [
            "The retain model was not trained in this run. The comparison is valid only if it was trained like the "
            "target, with the same data, prompt and settings, without the forget set."
        ]
    return ["There is no retain model to compare with: no model that never saw the forget set was available."]


def _about_selection(run: LoadedRun) -> list[str]:
    rule = run.recipe.get("evaluate", {}).get("select", "last")
    notes = []
    if rule != "last":
        count = len({result.step for result in run.results.get("unlearned", [])})
        notes.append(
            f"The checkpoint was selected among {count} by the same metrics that are reported here (select: {rule}), "
            "so they are optimistic; new questions would give somewhat worse values."
        )
    seed = run.manifest.seed if run.manifest else run.recipe.get("seed")
    notes.append(
        f"This is one run with one seed ({seed}). Intervals cover the choice of questions, not the luck of training."
    )
    return notes


def _about_the_material(run: LoadedRun) -> list[str]:
    notes = []
    if run.recipe.get("model", {}).get("scratch"):
        notes.append(
            "The model is small and was trained from scratch on this data. Results may not carry over to a large "
            "pretrained model, which stores a fact in many forms."
        )
    if run.recipe.get("data", {}).get("name") in {"tofu", "synthetic"}:
        notes.append(
            "The forget set is about fictitious people whom the model met in fine-tuning only. Knowledge from "
            "pretraining is harder to remove."
        )
    overlap = run.manifest.overlap if run.manifest else None
    shared = overlap.num_exact + overlap.num_near if overlap else 0
    if shared:
        rows = "1 forget row is" if shared == 1 else f"{shared} forget rows are"
        notes.append(f"{rows} also in the retain set, exactly or nearly: forgotten and learned at the same time.")
    return notes

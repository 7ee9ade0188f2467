"""What a reader of a run may conclude and what not, said from the facts of that run."""

from __future__ import annotations

from typing import Any

from expunge.records import Verdict
from expunge.report.load import LoadedRun


def caveats(run: LoadedRun, verdict: Verdict) -> list[str]:
    """Return the limits of a run's verdict, most important first."""
    limits = [limit for judgement in verdict.judgements for limit in judgement.limits]
    notes = [
        *(limits or ["No benchmark drew a conclusion, so nothing here states how much of the forget set is gone."]),
        *_about_audits(run),
        *_about_the_retain_model(run.recipe),
        *_about_selection(run),
        *_about_the_material(run),
    ]
    if run.recipe.get("published"):
        notes.append(
            "Published values beside ours are comparable only where model, data, prompt and number of rows agree."
        )
    return notes


def _about_audits(run: LoadedRun) -> list[str]:
    if run.audits:
        tried = ", ".join(result.audit for result in run.audits)
        return [f"Attacks that were tried: {tried}. Others were not, and may succeed."]
    return [
        "No relearning, probing, quantisation or sampling attack was run. What the model does not "
        "say to these "
        "questions may come back with a little training, other words or other sampling."
    ]


def _about_the_retain_model(recipe: dict[str, Any]) -> list[str]:
    if recipe.get("retain_model"):
        return ["The retain model was trained in this run, from the same start as the target, on the retain set only."]
    if recipe.get("model", {}).get("retain_model"):
        return [
            "The retain model was not trained in this run. The comparison holds only if it was made "
            "like the target, "
            "with the same data, prompt and training, without the forget set."
        ]
    return ["There is no retain model: no model that never saw the forget set was available to compare with."]


def _about_selection(run: LoadedRun) -> list[str]:
    rule = run.recipe.get("evaluate", {}).get("select", "last")
    notes = []
    if rule != "last":
        count = len({result.step for result in run.results.get("unlearned", [])})
        notes.append(
            f"The checkpoint was chosen among {count} by the very numbers reported here (select: "
            f"{rule}), so these "
            "numbers flatter it; fresh questions would look somewhat worse."
        )
    seed = run.manifest.seed if run.manifest else run.recipe.get("seed")
    notes.append(
        f"This is one run with one seed ({seed}). The intervals cover the choice of questions, not "
        "the luck of training."
    )
    return notes


def _about_the_material(run: LoadedRun) -> list[str]:
    notes = []
    if run.recipe.get("model", {}).get("scratch"):
        notes.append(
            "The model is a small one, trained from nothing on this data. What works on it need not "
            "work on a "
            "large pretrained model, which holds a fact in many forms."
        )
    data = run.recipe.get("data", {}).get("name")
    if data in {"tofu", "synthetic"}:
        notes.append(
            "The forget set is made of fictitious people whom the model met in fine-tuning only. "
            "Knowledge from "
            "pretraining sits deeper and is harder to remove."
        )
    overlap = run.manifest.overlap if run.manifest else None
    shared = overlap.num_exact + overlap.num_near if overlap else 0
    if shared:
        rows = "1 forget row also stands" if shared == 1 else f"{shared} forget rows also stand"
        notes.append(f"{rows} in the retain set, exactly or nearly: unlearned and learned at the same time.")
    return notes

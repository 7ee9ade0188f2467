"""What a reader of a run may conclude and what not, said from the facts of that run."""

from __future__ import annotations

from typing import Any

from expunge.records import BenchmarkResult
from expunge.report.load import LoadedRun
from expunge.report.tables import format_number
from expunge.report.verdict import critical_distance


def caveats(run: LoadedRun, unlearned: BenchmarkResult | None) -> list[str]:
    """The limits of a run's verdict, most important first."""
    return [
        *_about_the_test(unlearned),
        *_about_audits(run),
        *_about_the_retain_model(run.recipe),
        *_about_selection(run),
        *_about_the_material(run),
        "Published numbers beside ours are comparable only where model, data, prompt and number of rows agree."
        if run.recipe.get("published")
        else "",
    ]


def _about_the_test(unlearned: BenchmarkResult | None) -> list[str]:
    quality = unlearned.headlines.get("forget_quality") if unlearned else None
    if quality is None and unlearned is not None and "familiarity" in unlearned.headlines:
        return [
            "Familiarity counts what the likeliest continuations of some passages name. What a model does not name "
            "there it may still know, and no test against a model that never saw the text was made."
        ]
    if quality is None or quality.point is None or not quality.n:
        return ["No test against a retain model was made, so nothing here says how much of the forget set is gone."]
    critical = critical_distance(quality.n)
    seen = (
        f"with {quality.n} questions it sees nothing below a distance of {format_number(critical)}" if critical else ""
    )
    return [
        "A p-value is not a proof of absence. A high forget quality says that one test on one number "
        "per question "
        f"found no difference from the retain model{'; ' + seen if seen else ''}. It does not say that "
        "the knowledge "
        "is gone from the weights."
    ]


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

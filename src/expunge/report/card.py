"""Model card of an unlearned checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from expunge.errors import printable
from expunge.report.caveats import caveats
from expunge.report.html import run_verdict
from expunge.report.load import LoadedRun
from expunge.report.tables import headline_rows, to_markdown
from expunge.rundir import write_atomic

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(folder: Path, run: LoadedRun, license: str | None = None) -> Path:
    """Write README.md, the model card, into the folder of a checkpoint. Needs no network.

    Args:
        folder: Folder of the checkpoint.
        run: The run that created it.
        license: Identifier such as 'mit'; None if it is unknown.

    Returns:
        The file that was written.
    """
    from huggingface_hub import ModelCard

    data = _card_data(run, license)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(run)}")
    path = Path(folder) / "README.md"
    write_atomic(path, str(card))
    return path


def _card_data(run: LoadedRun, license: str | None) -> Any:
    from huggingface_hub import ModelCardData

    method = str(run.recipe.get("method", {}).get("name", ""))
    evaluated = _eval_results(run)
    return ModelCardData(
        library_name="transformers",
        tags=[tag for tag in ("expunge", "machine-unlearning", Path(method).stem) if tag],
        base_model=_hub_id(run.recipe.get("model", {}).get("name")),
        license=license,
        # huggingface_hub requires a name with results and rejects it without.
        model_name=run.name if evaluated else None,
        eval_results=evaluated or None,
    )


def _eval_results(run: LoadedRun) -> list[Any]:
    from huggingface_hub import EvalResult

    results = []
    for row in headline_rows(run):
        value = row.values["unlearned"]
        if value.point is None:
            continue
        split = run.recipe.get("data", {}).get("split")
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=row.benchmark,
                dataset_name=" ".join(part for part in (row.benchmark, split) if part),
                metric_type=row.name,
                metric_name=row.title,
                metric_value=value.point,
            )
        )
    return results


def _hub_id(name: object) -> str | None:
    """Return the name if it can be a hub id; local paths are private and useless to others."""
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or Path(name).exists() or name.startswith("."):
        return None
    return name


def _text(run: LoadedRun) -> str:
    verdict = run_verdict(run)
    headlines = headline_rows(run)
    reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
    limits = "\n".join(f"- {line}" for line in caveats(run, verdict))
    judged = "\n".join(f"- {rule}" for judgement in verdict.judgements for rule in judgement.rules)
    table = to_markdown(headlines) if headlines else "No benchmark has been run."
    gaps = run.missing()
    unfinished = f"\nThis run is unfinished. Still missing: {'; '.join(gaps)}.\n" if gaps else ""
    recipe = yaml.safe_dump(_shareable(run.recipe), sort_keys=False, allow_unicode=True, width=100)
    report = f"""# {run.name}

**{verdict.sentence}**

{reasons}
{unfinished}
This model was created by unlearning: chosen knowledge was removed from a model that had it.

## Results

{table}

The target is the model before unlearning; the retain model never saw the forget set.
Brackets hold 95% intervals.

## How the verdict is reached

{judged}

## Limits

{limits}

## Recipe

Every setting of the run (`expunge run recipe.yaml` reproduces it):
"""
    # A fence ends at a line with at least as many marks, which a text of the recipe could contain.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", recipe)), default=0))
    return f"{_without_markup(report)}\n{fence}yaml\n{printable(recipe.rstrip())}\n{fence}\n"


def _without_markup(text: str) -> str:
    """Return Markdown in which texts of the run's records show neither HTML, links nor images."""
    return printable(text).replace("<", "&lt;").replace("](", "]\\(")


def _shareable(value: Any) -> Any:
    """Return the recipe without absolute paths: only their last part remains."""
    if isinstance(value, dict):
        return {key: _shareable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_shareable(part) for part in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")) and "\n" not in value:
        return Path(value).name
    return value

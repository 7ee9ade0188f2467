"""The lm-eval tasks that the benchmarks run, and the conversion of local rows to rows of their data sets.

Prompts, choices and scores are lm-eval's own; a local row only takes the form of the hub's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from expunge.data.mcq import Layout, Question
from expunge.rundir import fingerprint

Doc = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One task of lm-eval."""

    name: str
    definition: str
    """lm-eval's file, relative to its folder `tasks`."""
    layout: Layout
    doc: Callable[[Question], Doc]
    """Converts a local row to the form of the hub's rows."""
    cluster: Callable[[Mapping[str, Any]], Any] | None = None
    """Key that dependent rows share; None if rows are independent."""
    overrides: Mapping[str, Any] | None = None
    """Changes of lm-eval's definition for local rows."""
    shots: str | None = None
    """Split of worked examples; None if the task is zero-shot only."""

    def group(self, doc: Mapping[str, Any]) -> str:
        """Return the cluster of a row as a short name; empty if rows are independent."""
        return fingerprint(self.cluster(doc)) if self.cluster else ""


def _lettered(question: Question) -> Doc:
    return {"question": question.text, "choices": list(question.choices), "answer": question.answer}


def _labelled(question: Question) -> Doc:
    labels = [chr(ord("A") + index) for index in range(len(question.choices))]
    return {"choices": {"text": list(question.choices), "label": labels}, "answerKey": labels[question.answer]}


def _arc(question: Question) -> Doc:
    return {"question": question.text, **_labelled(question)}


def _openbookqa(question: Question) -> Doc:
    return {"question_stem": question.text, **_labelled(question)}


def _boolq(question: Question) -> Doc:
    return {"passage": question.passage, "question": question.text, "label": question.answer}


def _hellaswag(question: Question) -> Doc:
    return {"query": question.text, "choices": list(question.choices), "label": str(question.answer)}


def _piqa(question: Question) -> Doc:
    first, second = question.choices
    return {"goal": question.text, "sol1": first, "sol2": second, "label": question.answer}


def _winogrande(question: Question) -> Doc:
    first, second = question.choices
    return {"sentence": question.text, "option1": first, "option2": second, "answer": str(question.answer + 1)}


GENERAL = {
    task.name: task
    for task in (
        Task("arc_challenge", "arc/arc_challenge.yaml", Layout("arc_challenge"), _arc, shots="train"),
        Task("arc_easy", "arc/arc_easy.yaml", Layout("arc_easy"), _arc, shots="train"),
        Task(
            "boolq",
            "super_glue/boolq/default.yaml",
            Layout("boolq", num_choices=2, choices=("no", "yes"), passage=True),
            _boolq,
            cluster=lambda doc: doc["passage"],
            shots="train",
        ),
        Task(
            "hellaswag",
            "hellaswag/hellaswag.yaml",
            Layout("hellaswag", num_choices=4),
            _hellaswag,
            # Local rows already contain the text that this step builds from the hub's columns.
            overrides={"process_docs": None},
            shots="train",
        ),
        Task(
            "openbookqa",
            "openbookqa/openbookqa.yaml",
            Layout("openbookqa", num_choices=4),
            _openbookqa,
            shots="train",
        ),
        Task("piqa", "piqa/piqa.yaml", Layout("piqa", num_choices=2), _piqa, shots="train"),
        Task(
            "winogrande",
            "winogrande/default.yaml",
            Layout("winogrande", num_choices=2, blank=True),
            _winogrande,
            # Sentences form pairs that share their two options.
            cluster=lambda doc: sorted((doc["option1"], doc["option2"])),
            shots="train",
        ),
    )
}
"""Common knowledge and common sense."""


def mmlu_task(subject: str) -> Task:
    """Return the task of one subject of MMLU."""
    return Task(
        f"mmlu_{subject}",
        f"mmlu/default/mmlu_{subject}.yaml",
        Layout(f"mmlu/{subject}", num_choices=4),
        _lettered,
        cluster=lambda doc: subject,
        shots="dev",
    )


def wmdp_task(topic: str) -> Task:
    """Return the task of one topic of WMDP."""
    return Task(f"wmdp_{topic}", f"wmdp/wmdp_{topic}.yaml", Layout(f"wmdp/{topic}", num_choices=4), _lettered)

"""Judge prompts: templates for questions and answers, from a file in FastChat's format or this package's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from expunge.config.recipe import Source
from expunge.data.sources.readers import read_records
from expunge.errors import DataError
from expunge.services.chat import Messages

_ONE, _TWO = ("question", "answer"), ("question_1", "answer_1", "question_2", "answer_2")
PLACEHOLDERS = {
    "single-v1": _ONE,
    "single-math-v1": (*_ONE, "ref_answer_1"),
    "single-v1-multi-turn": _TWO,
    "single-math-v1-multi-turn": (*_TWO, "ref_answer_1", "ref_answer_2"),
}
"""Name of each prompt (first turn or both, without or with right answers) -> its placeholders."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class JudgePrompt:
    """One prompt template of a judge."""

    system: str
    template: str
    """The user's message, with placeholders such as {question}."""

    def messages(self, values: Mapping[str, str]) -> Messages:
        """Return the conversation to send; placeholders within the values are not replaced."""
        text = _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), self.template)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": text}]


def read_judge_prompts(path: Path) -> dict[str, JudgePrompt]:
    """Read the four prompts for rating single answers; other prompts in the file are ignored.

    Raises:
        DataError: One of them is missing, or lacks a placeholder.
    """
    prompts: dict[str, JudgePrompt] = {}
    for where, record in read_records(Source(path=str(path))):
        name = record.get("name")
        if name not in PLACEHOLDERS:
            continue
        system, template = record.get("system_prompt"), record.get("prompt_template")
        if not isinstance(system, str) or not isinstance(template, str):
            raise DataError(f"{where}: the prompt {name} needs the texts system_prompt and prompt_template.")
        absent = set(PLACEHOLDERS[name]) - set(_PLACEHOLDER.findall(template))
        if absent:
            raise DataError(
                f"{where}: the prompt {name} lacks the placeholder {', '.join(sorted(absent))}.",
                fix=f"Insert {{{min(absent)}}}.",
            )
        prompts[name] = JudgePrompt(system, template)
    missing = [name for name in PLACEHOLDERS if name not in prompts]
    if missing:
        raise DataError(
            f"{path} lacks the judge's prompt {missing[0]}.",
            allowed=f"Needed: {', '.join(PLACEHOLDERS)}.",
            fix="Add it.",
        )
    return prompts


_SCALE = (
    "First explain your judgement in a few sentences. Then give a rating from 1 (useless) to 10 (could not be better) "
    "in double square brackets on a line of its own, like this: Rating: [[4]]"
)
_QUALITY = (
    "You grade answers of an AI assistant. Look at whether the answer does what was asked, is correct, helpful, "
    "relevant and clear, and goes into the depth that the question needs. Length alone earns nothing."
)
_RIGHT = (
    "You grade answers of an AI assistant to questions that have a right answer, which you are given. Compare the "
    "assistant's answer with it, step by step, and name every mistake. What counts is whether it is correct."
)
_SECOND = "The conversation has two turns. Grade the answer to the second question; the first turn is its context."


def _prompt(system: str, paragraphs: Mapping[str, str]) -> JudgePrompt:
    text = "\n\n".join(f"## {title}\n{text}" for title, text in paragraphs.items())
    return JudgePrompt(f"{system} {_SCALE}", text)


_TURNS = {
    "First question": "{question_1}",
    "Assistant's first answer": "{answer_1}",
    "Second question": "{question_2}",
    "Assistant's second answer, to be graded": "{answer_2}",
}
_ASKED = {"Question": "{question}", "Assistant's answer, to be graded": "{answer}"}

OWN_PROMPTS = {
    "single-v1": _prompt(_QUALITY, _ASKED),
    "single-math-v1": _prompt(_RIGHT, {"Right answer": "{ref_answer_1}", **_ASKED}),
    "single-v1-multi-turn": _prompt(f"{_QUALITY} {_SECOND}", _TURNS),
    "single-math-v1-multi-turn": _prompt(
        f"{_RIGHT} {_SECOND}",
        {
            "Right answer to the first question": "{ref_answer_1}",
            "Right answer to the second question": "{ref_answer_2}",
            **_TURNS,
        },
    ),
}
"""Prompts for questions that come without any. Ratings by them are not comparable with published ones."""

"""What a judge is asked: texts with places for questions and answers, read from a file in FastChat's format or ours."""

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
PLACES = {
    "single-v1": _ONE,
    "single-math-v1": (*_ONE, "ref_answer_1"),
    "single-v1-multi-turn": _TWO,
    "single-math-v1-multi-turn": (*_TWO, "ref_answer_1", "ref_answer_2"),
}
"""Name of each prompt (first turn or both, without or with right answers) -> what it has to hold."""

_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class JudgePrompt:
    """One prompt of a judge."""

    system: str
    template: str
    """The user's message, with {question} and the like."""

    def messages(self, values: Mapping[str, str]) -> Messages:
        """The conversation to send; places in the values themselves are left alone."""
        text = _PLACE.sub(lambda found: values.get(found[1], found[0]), self.template)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": text}]


def read_judge_prompts(path: Path) -> dict[str, JudgePrompt]:
    """The four prompts for judging single answers; others in the file are left out.

    Raises:
        DataError: One of them is missing, or lacks a place for what it judges.
    """
    found: dict[str, JudgePrompt] = {}
    for where, record in read_records(Source(path=str(path))):
        name = record.get("name")
        if name not in PLACES:
            continue
        system, template = record.get("system_prompt"), record.get("prompt_template")
        if not isinstance(system, str) or not isinstance(template, str):
            raise DataError(f"{where}: the prompt {name} needs the texts system_prompt and prompt_template.")
        lacking = set(PLACES[name]) - set(_PLACE.findall(template))
        if lacking:
            raise DataError(
                f"{where}: the prompt {name} has no place for {', '.join(sorted(lacking))}.",
                fix=f"Write {{{min(lacking)}}} where it belongs.",
            )
        found[name] = JudgePrompt(system, template)
    missing = [name for name in PLACES if name not in found]
    if missing:
        raise DataError(
            f"{path} lacks the judge's prompt {missing[0]}.", allowed=f"It needs: {', '.join(PLACES)}.", fix="Add it."
        )
    return found


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


def _own(system: str, parts: Mapping[str, str]) -> JudgePrompt:
    return JudgePrompt(f"{system} {_SCALE}", "\n\n".join(f"## {title}\n{text}" for title, text in parts.items()))


_TURNS = {
    "First question": "{question_1}",
    "Assistant's first answer": "{answer_1}",
    "Second question": "{question_2}",
    "Assistant's second answer, to be graded": "{answer_2}",
}
_ASKED = {"Question": "{question}", "Assistant's answer, to be graded": "{answer}"}

OWN_PROMPTS = {
    "single-v1": _own(_QUALITY, _ASKED),
    "single-math-v1": _own(_RIGHT, {"Right answer": "{ref_answer_1}", **_ASKED}),
    "single-v1-multi-turn": _own(f"{_QUALITY} {_SECOND}", _TURNS),
    "single-math-v1-multi-turn": _own(
        f"{_RIGHT} {_SECOND}",
        {
            "Right answer to the first question": "{ref_answer_1}",
            "Right answer to the second question": "{ref_answer_2}",
            **_TURNS,
        },
    ),
}
"""For questions that come without a judge's prompts. Ratings by them compare with nobody else's."""

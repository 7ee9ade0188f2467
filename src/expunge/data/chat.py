"""Write conversations with a tokenizer's chat template, with a fixed date and the recipe's template variables."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from expunge.config.recipe import Prompt
from expunge.data.rendering import FAILURES, reason, render, template_source
from expunge.errors import IncompatibleError

Turns = Sequence[tuple[str, str]]
"""Earlier questions of a conversation and their answers."""

Message = dict[str, str]

WITHOUT_SYSTEM_ROLE = (
    "Set prompt.system=null and put the text into the questions, or give the tokenizer a chat template with a system "
    "role, or set prompt.style=plain and put the text into prompt.question."
)
"""Advice for a system message that a chat template does not write."""

_PLACEHOLDER = "\U0010fffd"
"""Private-use character that stands for an answer."""
_DAYS = (datetime.date(2001, 2, 3), datetime.date(2010, 11, 12))
_DAY_FORMATS = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%B %d, %Y")
_DIRECTIVES = [f"%{flag}{letter}" for flag in ("", "-") for letter in "aAbBcCdDeFfGhHIjmMpRSTuUVwWxXyY"]
# apply_chat_template passes plain data only, no functions, so the function that reads the clock is replaced by a macro.
# The line break at the end belongs to the macro: the template starts on a new line, as it does on its own.
_FIXED_STRFTIME_NOW = (
    "{%- macro strftime_now(format) -%}"
    "{%- if not fixed_day -%}{{- raise_exception('it needs a day; write prompt.date as YYYY-MM-DD') -}}{%- endif -%}"
    "{%- for part in format.split('%%') -%}"
    "{%- if not loop.first -%}{{- '%' -}}{%- endif -%}"
    "{%- set result = namespace(text=part) -%}"
    "{%- for directive, value in fixed_day.items() -%}"
    "{%- set result.text = result.text.replace(directive, value) -%}"
    "{%- endfor -%}"
    "{{- result.text -}}"
    "{%- endfor -%}"
    "{%- endmacro %}\n"
)


class ChatWriter:
    """Writer of conversations in the format of a chat template.

    Args:
        tokenizer: A tokenizer with a chat template.
        prompt: Chat settings.

    Raises:
        IncompatibleError: The chat template rejects the messages or the settings.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self.day = _today(tokenizer) if prompt.date is None else _parse_day(prompt.date)
        """The day that the template takes for today; None if `prompt.date` is no date."""
        self._date_string = prompt.date
        self.reads_clock = False
        """Whether the text depends on the day, unless `date_string` is given."""
        self._source = None
        if "strftime_now" in template_source(tokenizer):
            self._source = _FIXED_STRFTIME_NOW + tokenizer.get_chat_template(tools=prompt.template.get("tools"))
            # A date in ISO format is left to the template's own format, if the template asks for today's date.
            is_iso = prompt.date is not None and prompt.date == str(self.day)
            date_string = None if is_iso or prompt.date is None else prompt.date
            first, second = (
                self._render(conversation("?", answer="!"), day=day, date_string=date_string) for day in _DAYS
            )
            self.reads_clock = first != second
            if is_iso and self.reads_clock:
                self._date_string = None

    def write(self, messages: list[Message], *, without: str = "", generation: bool = False) -> str:
        """Return a conversation as text.

        Args:
            messages: The conversation, without a system message.
            without: Name of a template variable to leave out.
            generation: Add the template's generation prompt.
        """
        return self._render(
            messages, day=self.day, date_string=self._date_string, without=without, generation=generation
        )

    def frame(self, question: str, turns: Turns = ()) -> tuple[str, str]:
        """Return the text before and after an answer to a question.

        Raises:
            IncompatibleError: The template does not write answers, or writes them more than once.
        """
        text = self.write(conversation(question, turns, _PLACEHOLDER))
        if text.count(_PLACEHOLDER) != 1:
            times = "not at all" if _PLACEHOLDER not in text else f"{text.count(_PLACEHOLDER)} times"
            raise IncompatibleError(
                f"the tokenizer's chat template writes a given answer {times}, so its place in the text is unknown. "
                f"Written text, with [ANSWER] for the answer: {shorten(text.replace(_PLACEHOLDER, '[ANSWER]'))}",
                fix="Give the tokenizer a chat template that writes every answer once, or set prompt.style=plain.",
            )
        head, tail = text.split(_PLACEHOLDER)
        return head, tail

    def _render(
        self,
        messages: list[Message],
        *,
        day: datetime.date | None,
        date_string: str | None,
        without: str = "",
        generation: bool = False,
    ) -> str:
        if self._prompt.system is not None:
            messages = [{"role": "system", "content": self._prompt.system}, *messages]
        variables = {name: value for name, value in self._prompt.template.items() if name != without}
        if date_string is not None:
            variables["date_string"] = date_string
        if self._source is not None:
            time = None if day is None else datetime.datetime.combine(day, datetime.time())
            variables["fixed_day"] = {} if time is None else {name: time.strftime(name) for name in _DIRECTIVES}
        try:
            return render(
                self._tokenizer,
                messages,
                chat_template=self._source,
                add_generation_prompt=generation,
                **variables,
            )
        except FAILURES as error:
            raise IncompatibleError(
                f"the tokenizer's chat template rejects this prompt: {reason(error)}.",
                fix=self._way_out(),
            ) from error

    def _way_out(self) -> str:
        """Return what to do if the template rejects a prompt."""
        if self._prompt.template:
            return "Remove prompt.template if it is the cause, or prompt.system, or set prompt.style=plain."
        return "Set prompt.style=plain." if self._prompt.system is None else WITHOUT_SYSTEM_ROLE


def conversation(question: str, turns: Turns = (), answer: str | None = None) -> list[Message]:
    """Return a conversation as messages, ending with the answer if there is one."""
    exchanges = [*turns, (question, answer)]
    return [
        {"role": role, "content": text}
        for exchange in exchanges
        for role, text in zip(("user", "assistant"), exchange, strict=True)
        if text is not None
    ]


def shorten(text: str, size: int = 200) -> str:
    """Return a text in quotation marks, with its middle left out if it is longer than `size` characters."""
    if len(text) > size:
        text = f"{text[: size // 2]} [...] {text[-size // 2 :]}"
    return repr(text)


def describe_difference(ours: str, theirs: str, size: int = 60) -> str:
    """Return in words where two different texts begin to differ."""
    equal = common_length(ours, theirs)
    after = f"After {ours[max(equal - size, 0) : equal]!r}, " if equal else ""
    sentence = f"{after}here the text is {ours[equal : equal + size]!r}, there it is {theirs[equal : equal + size]!r}."
    return sentence[0].upper() + sentence[1:]


def common_length(first: str, second: str) -> int:
    """Return the number of characters at which two texts are equal from the start."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


def _today(tokenizer: Any) -> datetime.date:
    """Return the current day as chat templates get it."""
    return datetime.date.fromisoformat(
        render(tokenizer, conversation("?"), chat_template="{{ strftime_now('%Y-%m-%d') }}")
    )


def _parse_day(text: str) -> datetime.date | None:
    for pattern in _DAY_FORMATS:
        try:
            return datetime.datetime.strptime(text.strip(), pattern).date()
        except ValueError:
            continue
    return None

"""Encode questions and answers as token ids and mark exactly the tokens of the answer.

The answer is located by character offsets in the full text, because the tokens of the prompt alone are not always a
prefix of the tokens of prompt and answer.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jinja2 import TemplateError

from expunge.config.recipe import Prompt
from expunge.console import note
from expunge.data.sets import RowSet
from expunge.errors import DataError, IncompatibleError

LongText = Literal["refuse", "truncate", "chunk"]

Turns = Sequence[tuple[str, str]]
"""Earlier questions of a conversation and their answers."""

_NO_LIMIT = 1 << 30

NO_LABEL = -100
"""Value in `Encoded.labels` at positions that are not learned."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one row; its answer, including the end-of-sequence token, is `ids[answer_start:]`."""

    ids: tuple[int, ...]
    answer_start: int
    row: str = ""
    """Id of the row, for error messages."""
    labels: tuple[int, ...] | None = None
    """Labels that replace `ids[answer_start:]`, of the same length, with NO_LABEL at positions that are not learned;
    None to learn the answer itself."""
    topic: str = ""
    """Topic of the row."""

    @property
    def targets(self) -> tuple[int, ...]:
        """Return the label of each answer position: a token id or NO_LABEL."""
        return self.ids[self.answer_start :] if self.labels is None else self.labels

    @property
    def num_answer(self) -> int:
        """Return the number of tokens that are learned or scored."""
        if self.labels is None:
            return len(self.ids) - self.answer_start
        return len(self.labels) - self.labels.count(NO_LABEL)


class Template:
    """Format of questions and answers for one tokenizer.

    Args:
        tokenizer: A fast Hugging Face tokenizer with an end-of-sequence token.
        prompt: Chat or plain style.
        max_length: Maximum number of tokens per row.
        long_text: How to treat longer plain text: refuse it, truncate it, or cut it into several rows.

    Raises:
        IncompatibleError: The tokenizer has no end-of-sequence token, no character offsets, or no chat template
            although the prompt's style needs one; or its chat template rejects the messages.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, max_length: int, long_text: LongText = "refuse") -> None:
        self.tokenizer, self.prompt, self.max_length = tokenizer, prompt, max_length
        self.long_text = long_text
        self._last_prompt: tuple[str, str] | None = None
        if tokenizer.eos_token_id is None:
            raise IncompatibleError(
                "the tokenizer has no end-of-sequence token, so the end of an answer cannot be marked.",
                fix="Set eos_token in tokenizer_config.json to the token that ends an answer.",
            )
        if not tokenizer.is_fast:
            raise IncompatibleError(
                "this is a slow tokenizer without character offsets, which the answer masks need.",
                fix="Use a model folder with a tokenizer.json.",
            )
        if prompt.style == "chat" and not tokenizer.chat_template:
            raise IncompatibleError(
                "prompt.style is 'chat', but this tokenizer has no chat template.",
                fix="Set prompt.style=plain, and prompt.question and prompt.answer for a different wording.",
            )
        # Chat templates differ in the settings that they support, so an unused one is reported but is no error.
        for name, value in (("system", prompt.system), ("date", prompt.date)):
            if value and value.strip() not in self.prompt_text("?"):
                note(f"Note: prompt.{name} has no effect; this tokenizer's chat template does not use it.")

    @property
    def _bos(self) -> str:
        """Return the text of the start token, or "" if it is the end-of-sequence token or missing."""
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        return "" if bos is None or bos == eos else str(bos)

    @property
    def fingerprint(self) -> str:
        """Return a hash that is equal for templates that write the same text and tokenize it equally."""
        probe = self.encode("Who wrote it?", "Nobody knows, 42 did.")
        content = (self.prompt_text("Who wrote it?"), probe.ids, probe.answer_start, len(self.tokenizer))
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    def without_limit(self) -> Template:
        """Return a copy that accepts rows of any length, for callers that count rows that are too long."""
        unlimited = copy.copy(self)
        unlimited.max_length = _NO_LIMIT
        return unlimited

    def prompt_text(self, question: str, turns: Turns = ()) -> str:
        """Return the text before the answer; `turns` are the earlier questions and answers of the conversation."""
        if self.prompt.style == "plain":
            exchanges = [
                self.prompt.question.replace("{question}", earlier) + self.prompt.answer.replace("{answer}", answer)
                for earlier, answer in turns
            ]
            return str(self._bos + "\n\n".join([*exchanges, self.prompt.question.replace("{question}", question)]))
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return str(self._chat([*messages, {"role": "user", "content": question}], add_generation_prompt=True))

    def full_text(self, question: str, answer: str) -> str:
        """Return the text of prompt and answer, including the end-of-sequence token."""
        eos = self.tokenizer.eos_token
        if self.prompt.style == "plain":
            return f"{self.prompt_text(question)}{self.prompt.answer.replace('{answer}', answer)}{eos}"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return str(self._chat(messages, add_generation_prompt=False))

    def prompt_ids(self, question: str, turns: Turns = (), prefix: str = "") -> list[int]:
        """Return the token ids of the prompt alone, for generation.

        Args:
            question: The question.
            turns: Earlier questions of the conversation and their answers.
            prefix: First words of the answer, which the model continues.
        """
        text = self.prompt_text(question, turns)
        if prefix:
            if self.prompt.style == "plain":
                text += self.prompt.answer.replace("{answer}", prefix)
            else:
                # A generation prompt may end differently from the text before a written answer (spaces, thinking
                # tags), so the end of the prompt is taken from a text with a written answer.
                full = self.full_text(question, prefix)
                single_turn = self.prompt_text(question)
                start = _common_prefix_length(single_turn, full)
                end = full.rindex(prefix) + len(prefix)
                text = text[: len(text) - (len(single_turn) - start)] + full[start:end]
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def raw_ids(self, text: str) -> list[int]:
        """Return the token ids of plain text without an end-of-sequence token, for a model to continue."""
        return list(self.tokenizer(self._bos + text, add_special_tokens=False)["input_ids"])

    def encode_raw(self, before: str, text: str, row: str = "") -> Encoded:
        """Encode the plain text `before + text`, of which only `text` is scored, without an end-of-sequence token.

        Raises:
            DataError: The row is longer than `max_length`, or `text` has no token of its own.
        """
        start = len(self._bos + before)
        encoding = self.tokenizer(self._bos + before + text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        first = next((i for i, (_, end) in enumerate(offsets) if end > start), len(ids))
        # The first token cannot be scored: no position predicts it.
        return self._build(ids, max(first, 1), row or text)

    def encode(self, question: str, answer: str, row: str = "") -> Encoded:
        """Encode a question and its answer or, if the question is empty, the first piece of a plain text.

        Raises:
            DataError: The row is longer than `max_length`, or its answer has no token.
        """
        if not question:
            return self._encode_text(answer, row, self.max_length)[0]
        # Several answers to one question in a row are common.
        if self._last_prompt is None or self._last_prompt[0] != question:
            self._last_prompt = question, self.prompt_text(question)
        full = self.full_text(question, answer)
        start = _common_prefix_length(self._last_prompt[1], full)
        encoding = self.tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        answer_start = next((i for i, (_, end) in enumerate(offsets) if end > start), len(ids))
        # Some chat templates write text after the answer's end-of-sequence token, and some write no such token.
        eos = self.tokenizer.eos_token_id
        end = next((i for i in range(answer_start, len(ids)) if ids[i] == eos), len(ids))
        return self._build([*ids[:end], eos], answer_start, row or question)

    def encode_set(self, rows: RowSet) -> list[Encoded]:
        """Encode the rows of a set in order; if `long_text` is 'chunk', a long text becomes several rows."""
        encoded: list[Encoded] = []
        for row in rows:
            if row.question:
                pieces = [self.encode(row.question, row.answer, row.id)]
            else:
                limit = min(self.max_length, row.max_tokens or self.max_length)
                pieces = self._encode_text(row.answer, row.id, limit)
            encoded += [replace(piece, topic=row.topic) for piece in pieces] if row.topic else pieces
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens without special tokens and surrounding whitespace."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _encode_text(self, text: str, row: str, limit: int) -> list[Encoded]:
        """Encode plain text in pieces of at most `limit` tokens; only the end of the text has an end token."""
        eos, start = self.tokenizer.eos_token_id, 1 if self._bos else 0
        ids = [*self.tokenizer(self._bos + text, add_special_tokens=False)["input_ids"], eos]
        pieces = [ids]
        if self.long_text != "refuse" and len(ids) > limit:
            size = limit - start
            pieces = [ids[:start] + ids[first : first + size] for first in range(start, len(ids), size)]
            # A piece that consists of the end token alone has nothing to learn.
            pieces = [piece for piece in pieces if len(piece) > 1 and piece[start:] != [eos]]
        if self.long_text == "truncate":
            pieces = pieces[:1]
        # The first token cannot be learned: no position predicts it.
        return [self._build(piece, 1, row or "text") for piece in pieces]

    def _chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> Any:
        if self.prompt.system is not None:
            messages = [{"role": "system", "content": self.prompt.system}, *messages]
        date = {} if self.prompt.date is None else {"date_string": self.prompt.date}
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **date
            )
        except TemplateError as error:
            raise IncompatibleError(
                f"the tokenizer's chat template rejects this prompt: {error}",
                fix="Remove prompt.system if it is the cause, or set prompt.style=plain.",
            ) from error

    def _build(self, ids: list[int], answer_start: int, row: str) -> Encoded:
        """Build an encoded row and raise if it is too long or has no answer."""
        if len(ids) > self.max_length:
            raise DataError(
                f"the row '{row[:80]}' has {len(ids)} tokens, but the longest allowed is {self.max_length}.",
                fix="Shorten it, or raise max_length if the model's context allows it. "
                "Set data.long_text to cut long plain text.",
            )
        if len(ids) - answer_start < 1 or answer_start < 1:
            raise DataError(f"the answer of the row '{row[:80]}' has no token of its own.", fix="Change the answer.")
        return Encoded(ids=tuple(ids), answer_start=answer_start, row=row)


def _common_prefix_length(prompt: str, full: str) -> int:
    """Return the index of the character at which the answer starts in the full text.

    A generation prompt may end in spaces or a thinking tag that the chat template omits before a written answer.
    """
    if full.startswith(prompt):
        return len(prompt)
    return next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), len(prompt))

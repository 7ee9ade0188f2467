"""Turns a question and an answer into token ids with a mask that marks exactly the answer.

The answer's tokens are found from character offsets of the whole text, because a prompt's own tokens are not
always a prefix of the tokens of prompt + answer.
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
from expunge.data.sets import Row, RowSet
from expunge.errors import DataError, IncompatibleError

LongText = Literal["refuse", "truncate", "chunk"]

Turns = Sequence[tuple[str, str]]
"""Earlier questions of a conversation and their answers."""

_NO_LIMIT = 1 << 30

NO_LABEL = -100
"""Stands in `Encoded.labels` where nothing is learnt."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one row; the answer, with its end-of-sequence token, is `ids[answer_start:]`."""

    ids: tuple[int, ...]
    answer_start: int
    row: str = ""
    """Id of the row, to name it in an error."""
    labels: tuple[int, ...] | None = None
    """What is learnt in place of `ids[answer_start:]`, of the same length, with NO_LABEL where nothing is;
    None: the answer itself."""
    topic: str = ""
    """Topic of the row."""

    @property
    def targets(self) -> tuple[int, ...]:
        """Token to be predicted at each answer position, or NO_LABEL."""
        return self.ids[self.answer_start :] if self.labels is None else self.labels

    @property
    def num_answer(self) -> int:
        """Number of tokens that are learnt or scored."""
        if self.labels is None:
            return len(self.ids) - self.answer_start
        return len(self.labels) - self.labels.count(NO_LABEL)


class Template:
    """The way in which one tokenizer writes questions and answers.

    Args:
        tokenizer: A fast Hugging Face tokenizer with an end-of-sequence token.
        prompt: Chat or plain style.
        max_length: Longest row in tokens.
        long_text: What happens to plain text that is longer: it is refused, cut off, or cut into several rows.

    Raises:
        IncompatibleError: The tokenizer has no end-of-sequence token, no offsets, or no chat template where
            the prompt's style needs one; or its chat template refuses the messages.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, max_length: int, long_text: LongText = "refuse") -> None:
        self.tokenizer, self.prompt, self.max_length = tokenizer, prompt, max_length
        self.long_text = long_text
        self._last_prompt: tuple[str, str] | None = None
        if tokenizer.eos_token_id is None:
            raise IncompatibleError(
                "the tokenizer has no end-of-sequence token, so an answer has no end.",
                fix="Set eos_token in its tokenizer_config.json to the token that ends an answer.",
            )
        if not tokenizer.is_fast:
            raise IncompatibleError(
                "the tokenizer is a slow one and gives no character offsets, which the answer masks need.",
                fix="Use a model folder with a tokenizer.json.",
            )
        if prompt.style == "chat" and not tokenizer.chat_template:
            raise IncompatibleError(
                "prompt.style is 'chat', but this tokenizer has no chat template.",
                fix="Set prompt.style=plain, and prompt.question and prompt.answer if you need other words.",
            )
        self._note_ignored()

    def _note_ignored(self) -> None:
        """Say which settings the chat template leaves out; templates differ, so this is no error."""
        for name, value in (("system", self.prompt.system), ("date", self.prompt.date)):
            if value and value.strip() not in self.prompt_text("?"):
                note(f"Note: prompt.{name} has no effect; this tokenizer's chat template does not write it.")

    @property
    def _bos(self) -> str:
        """Text of the token that starts a sequence, for tokenizers that have one of its own."""
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        return "" if bos is None or bos == eos else str(bos)

    @property
    def fingerprint(self) -> str:
        """Equal for two templates that write the same text and split it into the same tokens."""
        probe = self.encode("Who wrote it?", "Nobody knows, 42 did.")
        parts = (self.prompt_text("Who wrote it?"), probe.ids, probe.answer_start, len(self.tokenizer))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def without_limit(self) -> Template:
        """The same template for rows of any length, where what does not fit is counted instead of refused."""
        other = copy.copy(self)
        other.max_length = _NO_LIMIT
        return other

    def prompt_text(self, question: str, turns: Turns = ()) -> str:
        """Text up to where the answer starts, after a conversation of earlier (question, answer) turns."""
        if self.prompt.style == "plain":
            parts = [
                self.prompt.question.replace("{question}", asked) + self.prompt.answer.replace("{answer}", answer)
                for asked, answer in turns
            ]
            return str(self._bos + "\n\n".join([*parts, self.prompt.question.replace("{question}", question)]))
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return str(self._chat([*messages, {"role": "user", "content": question}], add_generation_prompt=True))

    def full_text(self, question: str, answer: str) -> str:
        """Text of prompt and answer, up to and including the end-of-sequence token."""
        eos = self.tokenizer.eos_token
        if self.prompt.style == "plain":
            return f"{self.prompt_text(question)}{self.prompt.answer.replace('{answer}', answer)}{eos}"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return str(self._chat(messages, add_generation_prompt=False))

    def prompt_ids(self, question: str, turns: Turns = (), prefix: str = "") -> list[int]:
        """Tokens of the prompt alone, for generation.

        Args:
            question: What is asked.
            turns: Earlier questions and their answers.
            prefix: First words of the answer, which the model goes on from.
        """
        text = self.prompt_text(question, turns)
        if prefix:
            if self.prompt.style == "plain":
                text += self.prompt.answer.replace("{answer}", prefix)
            else:
                # Chat templates differ in what they write between a role and its text; the full text shows it.
                full = self.full_text(question, prefix)
                alone = self.prompt_text(question)
                start = _common_prefix(alone, full)
                text = text[: len(text) - (len(alone) - start)] + full[start : full.rindex(prefix) + len(prefix)]
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def raw_ids(self, text: str) -> list[int]:
        """Tokens of plain text from its start, without an end, for a model to go on from."""
        return list(self.tokenizer(self._bos + text, add_special_tokens=False)["input_ids"])

    def encode_raw(self, before: str, text: str, row: str = "") -> Encoded:
        """Token ids of plain text of which the second part is scored, without an end-of-sequence token.

        Raises:
            DataError: The second part has no token of its own.
        """
        start = len(self._bos + before)
        encoding = self.tokenizer(self._bos + before + text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        first = next((i for i, (_, end) in enumerate(offsets) if end > start), len(ids))
        return self._checked(ids, max(first, 1), row or text)

    def encode(self, question: str, answer: str, row: str = "") -> Encoded:
        """Token ids of a question and an answer; with an empty question, of plain text (its first piece).

        Raises:
            DataError: The row is longer than `max_length`, or its answer has no token.
        """
        if not question:
            return self._encode_text(answer, row, self.max_length)[0]
        if self._last_prompt is None or self._last_prompt[0] != question:
            self._last_prompt = question, self.prompt_text(question)  # several answers to one question are common
        full = self.full_text(question, answer)
        start = _common_prefix(self._last_prompt[1], full)
        encoding = self.tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        answer_start = next((i for i, (_, end) in enumerate(offsets) if end > start), len(ids))
        ids = self._end_at_eos(ids, answer_start)
        return self._checked(ids, answer_start, row or question)

    def encode_set(self, rows: RowSet) -> list[Encoded]:
        """Encode every row of a set, in order; with long_text 'chunk' a long text gives several."""
        return [piece for row in rows for piece in self._pieces(row)]

    def encode_row(self, row: Row) -> Encoded:
        """Encode one row; of a text that is cut into several, the first piece."""
        return self._pieces(row)[0]

    def _pieces(self, row: Row) -> list[Encoded]:
        if row.question:
            pieces = [self.encode(row.question, row.answer, row.id)]
        else:
            limit = min(self.max_length, row.max_tokens or self.max_length)
            pieces = self._encode_text(row.answer, row.id, limit)
        return [replace(piece, topic=row.topic) for piece in pieces] if row.topic else pieces

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens and outer spaces."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _encode_text(self, text: str, row: str, limit: int) -> list[Encoded]:
        """Plain text in pieces of at most `limit` tokens; only where the text ends is there an end token."""
        eos, start = self.tokenizer.eos_token_id, 1 if self._bos else 0
        ids = [*self.tokenizer(self._bos + text, add_special_tokens=False)["input_ids"], eos]
        pieces = [ids]
        if self.long_text != "refuse" and len(ids) > limit:
            size = limit - start
            pieces = [ids[:start] + ids[place : place + size] for place in range(start, len(ids), size)]
            # A piece that is nothing but the end of the text has nothing to learn.
            pieces = [piece for piece in pieces if len(piece) > 1 and piece[start:] != [eos]]
        if self.long_text == "truncate":
            pieces = pieces[:1]
        # The first token has nothing before it that could predict it.
        return [self._checked(piece, 1, row or "text") for piece in pieces]

    def _chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> Any:
        if self.prompt.system is not None:
            messages = [{"role": "system", "content": self.prompt.system}, *messages]
        extra = {} if self.prompt.date is None else {"date_string": self.prompt.date}
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **extra
            )
        except TemplateError as error:
            raise IncompatibleError(
                f"the tokenizer's chat template refuses this prompt: {error}",
                fix="Leave out prompt.system if that is what it refuses, or set prompt.style=plain.",
            ) from error

    def _end_at_eos(self, ids: list[int], answer_start: int) -> list[int]:
        """Cut what a chat template writes after the answer's end token; add the token where it is missing."""
        eos = self.tokenizer.eos_token_id
        for position in range(answer_start, len(ids)):
            if ids[position] == eos:
                return ids[: position + 1]
        return [*ids, eos]

    def _checked(self, ids: list[int], answer_start: int, row: str) -> Encoded:
        if len(ids) > self.max_length:
            raise DataError(
                f"the row '{row[:80]}' has {len(ids)} tokens, but the longest allowed is {self.max_length}.",
                fix="Shorten it, or raise max_length if the model's context allows; "
                "long plain text can be cut with data.long_text.",
            )
        if len(ids) - answer_start < 1 or answer_start < 1:
            raise DataError(f"the answer of the row '{row[:80]}' has no token of its own.")
        return Encoded(ids=tuple(ids), answer_start=answer_start, row=row)


def _common_prefix(prompt: str, full: str) -> int:
    """Character at which the answer starts.

    A generation prompt may end in spaces or a thinking tag that the template leaves out before a given answer.
    """
    if full.startswith(prompt):
        return len(prompt)
    return next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), len(prompt))

"""Encode questions and answers as token ids and mark exactly the tokens of the answer.

The prompt is the template's text up to the answer, for scoring, training and generation alike. The answer is located
by character offsets in the full text, because the tokens of the prompt alone are not always a prefix of the tokens of
prompt and answer.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from expunge.config.recipe import Prompt
from expunge.console import note
from expunge.data.chat import WITHOUT_SYSTEM_ROLE, ChatWriter, Turns, common_length, conversation, shorten
from expunge.data.control_tokens import Offsets, PromptTokenizer
from expunge.data.sets import RowSet
from expunge.errors import DataError, IncompatibleError

LongText = Literal["refuse", "truncate", "chunk"]

_NO_LIMIT = 1 << 30
_EXAMPLE = ("Who wrote it?", "Nobody knows, 42 did.")

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
        self._last_frame: tuple[str, str, str] | None = None
        self._noted: set[str] = set()
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
        self._tokens = PromptTokenizer(tokenizer, prompt.control_tokens)
        self._chat = ChatWriter(tokenizer, prompt) if prompt.style == "chat" else None
        if self._chat is not None:
            self._note_unused_settings(self._chat)

    @property
    def prints_today(self) -> bool:
        """Whether the chat template prints today's date, which `prompt.date` would fix."""
        return self.prompt.date is None and self._chat is not None and self._chat.reads_clock

    @property
    def day(self) -> str:
        """Return the day that the chat template takes for today, as YYYY-MM-DD."""
        return "" if self._chat is None else str(self._chat.day or "")

    @cached_property
    def start_ids(self) -> tuple[int, ...]:
        """Return the tokens with which plain text starts: those that the tokenizer itself puts in front of it.

        If it adds none, but the chat template begins with the start token, the model was trained with that token.
        """
        tokenizer = self.tokenizer
        with_special = list(tokenizer("a")["input_ids"])
        without = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        size = len(without)
        positions = [i for i in range(len(with_special) - size + 1) if with_special[i : i + size] == without]
        start = tuple(with_special[: positions[0]]) if positions else ()
        if start or tokenizer.bos_token_id in (None, tokenizer.eos_token_id) or not tokenizer.chat_template:
            return start
        try:
            chat = self._chat or ChatWriter(tokenizer, Prompt())
            first = self._tokens.encode(chat.write(conversation("?", answer="!")))[0][:1]
        except IncompatibleError:
            return start
        return tuple(first) if first == [tokenizer.bos_token_id] else start

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Return the tokens that end an answer: the tokenizer's end token and the one that the chat template writes."""
        return tuple(sorted({self.tokenizer.eos_token_id, self._encode_pair(*_EXAMPLE)[0][-1]}))

    @property
    def example(self) -> str:
        """Return the prompt of an example question, to compare prompts in words."""
        return self.prompt_text(_EXAMPLE[0])

    @property
    def fingerprint(self) -> str:
        """Return a hash that is equal for templates that write the same text and tokenize it equally."""
        ids, answer_start = self._encode_pair(*_EXAMPLE)
        content: tuple[Any, ...] = (self.example, tuple(ids), answer_start, len(self.tokenizer))
        if self.prompt.control_tokens:
            content = (*content, "control tokens")
        return hashlib.sha256(repr(content).encode()).hexdigest()[:12]

    def without_limit(self) -> Template:
        """Return a copy that accepts rows of any length, for callers that count rows that are too long."""
        unlimited = copy.copy(self)
        unlimited.max_length = _NO_LIMIT
        return unlimited

    def prompt_text(self, question: str, turns: Turns = ()) -> str:
        """Return the text before the answer; `turns` are the earlier questions and answers of the conversation."""
        return self._start_text + self._tokens.restore(self._frame(question, turns)[0].rstrip(" "))

    def full_text(self, question: str, answer: str) -> str:
        """Return the text of prompt and answer; in plain style including the end-of-sequence token."""
        text = self._tokens.restore(self._write(question, answer)[0])
        return f"{self._start_text}{text}{self.tokenizer.eos_token}" if self._chat is None else text

    def prompt_ids(self, question: str, turns: Turns = (), prefix: str = "", lead_in: str = "") -> list[int]:
        """Return the token ids of the prompt alone, for generation.

        Args:
            question: The question.
            turns: Earlier questions of the conversation and their answers.
            prefix: First words of the answer, which the model continues.
            lead_in: Text that follows the prompt directly, instead of a prefix.
        """
        head, _ = self._frame(question, turns)
        if prefix:
            ids = self._tokens.encode(head + self._escape(prefix))[0]
        elif lead_in:
            ids = self._tokens.encode(head.rstrip(" ") + lead_in)[0]
        else:
            ids = self._tokens_before_answer(head)
        return [*self._plain_start, *ids]

    def raw_ids(self, text: str) -> list[int]:
        """Return the token ids of plain text without an end-of-sequence token, for a model to continue."""
        return [*self.start_ids, *self.text_ids(text)]

    def text_ids(self, text: str) -> list[int]:
        """Return the token ids of plain text alone."""
        return self._tokens.encode(self._escape(text))[0]

    def encode_raw(self, before: str, text: str, row: str = "") -> Encoded:
        """Encode the plain text `before + text`, of which only `text` is scored, without an end-of-sequence token.

        Raises:
            DataError: The row is longer than `max_length`, or `text` has no token of its own.
        """
        ids, offsets = self._tokens.encode(self._escape(before + text))
        first = next((i for i, (_, end) in enumerate(offsets) if end > len(before)), len(ids)) + len(self.start_ids)
        # The first token cannot be scored: no position predicts it.
        return self._build([*self.start_ids, *ids], max(first, 1), row or text)

    def encode(self, question: str, answer: str, row: str = "") -> Encoded:
        """Encode a question and its answer or, if the question is empty, the first piece of a plain text.

        Raises:
            DataError: The row is longer than `max_length`, or its answer has no token.
            IncompatibleError: The chat template rewrites the answer or the text before it.
        """
        if not question:
            return self._encode_text(answer, row, self.max_length)[0]
        return self._build(*self._encode_pair(question, answer, row), row or question)

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

    def tokenize_row(self, question: str, answer: str) -> tuple[str, list[int], Offsets]:
        """Return the text of a row, its token ids and the characters of each token.

        A plain text has no end token and begins with the start tokens or, if there are none, with the end token, which
        separates it from a text before it.
        """
        if question:
            escaped, lead = self._write(question, answer)[0], self._plain_start
            if self._chat is None:
                escaped += self.tokenizer.eos_token
        else:
            escaped, lead = self._escape(answer), self.start_ids or (self.tokenizer.eos_token_id,)
        text, ids, offsets = self._tokens.restore(escaped), *self._tokens.encode(escaped)
        for token in reversed(lead):
            written = str(self.tokenizer.convert_ids_to_tokens(token))
            shift = len(written)
            text, ids = written + text, [token, *ids]
            offsets = [(0, shift), *((start + shift, end + shift) for start, end in offsets)]
        return text, ids, offsets

    def answer_offsets(self, question: str, answer: str) -> tuple[str, Offsets]:
        """Return the answer as the prompt writes it, and the characters of it in each token that `encode` marks.

        A token that is not part of the answer's text, such as the end token, has no characters: its start is its end.
        """
        if not question:
            offsets = self._tokens.encode(self._escape(answer))[1]
            # Without start tokens, the first token has no position that predicts it.
            return answer, [*offsets[0 if self.start_ids else 1 :], (len(answer), len(answer))]
        text, _, stop = self._write(question, answer)
        begin = len(self._frame(question)[0])
        ids, first = self._encode_pair(question, answer)
        offsets = self._tokens.encode(text)[1][first - len(self._plain_start) :][: len(ids) - first]
        offsets += [(stop, stop)] * (len(ids) - first - len(offsets))
        written = self._tokens.restore(text[begin:stop])
        return written, [
            (min(max(start - begin, 0), stop - begin), min(max(end - begin, 0), stop - begin)) for start, end in offsets
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens without special tokens and surrounding whitespace."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    @property
    def _plain_start(self) -> tuple[int, ...]:
        """Start tokens of a prompt; a chat template writes its own."""
        return self.start_ids if self._chat is None else ()

    @property
    def _start_text(self) -> str:
        return "".join(map(str, self.tokenizer.convert_ids_to_tokens(list(self._plain_start))))

    def _escape(self, text: str) -> str:
        """Escape the text of a row, and state once that its control tokens are read as ordinary text."""
        escaped = self._tokens.escape(text)
        if escaped != text and "control tokens" not in self._noted:
            self._noted.add("control tokens")
            note(
                f"Note: some texts contain control tokens, such as '{self._tokens.find(text)}', which are encoded as "
                "ordinary text. Set prompt.control_tokens=true to encode them as control tokens."
            )
        return escaped

    def _frame(self, question: str, turns: Turns = ()) -> tuple[str, str]:
        """Return the escaped text before and after an answer."""
        # Several answers to one question in a row are common.
        if not turns and self._last_frame is not None and self._last_frame[0] == question:
            return self._last_frame[1:]
        turns = [(self._escape(earlier), self._escape(answer)) for earlier, answer in turns]
        if self._chat is not None:
            head, tail = self._chat.frame(self._escape(question), turns)
        else:
            before, tail = self.prompt.answer.split("{answer}", 1)
            exchanges = [
                self.prompt.question.replace("{question}", earlier) + self.prompt.answer.replace("{answer}", answer)
                for earlier, answer in turns
            ]
            head = (
                "\n\n".join([*exchanges, self.prompt.question.replace("{question}", self._escape(question))]) + before
            )
        if not turns:
            self._last_frame = question, head, tail
        return head, tail

    def _write(self, question: str, answer: str, row: str = "") -> tuple[str, int, int]:
        """Return prompt and answer as escaped text, and the characters at which the answer starts and ends."""
        head, tail = self._frame(question)
        answer = self._escape(answer)
        if self._chat is None:
            text = head + answer + tail
        else:
            text = self._chat.write(conversation(self._escape(question), answer=answer))
        written = text[len(head) : len(text) - len(tail)]
        # Chat templates may strip the answer, but what is learned and scored must be the answer.
        equal = common_length(head, text)
        if not text.startswith(head) or not text.endswith(tail) or written.split() != answer.split():
            raise IncompatibleError(
                f"the tokenizer's chat template does not write the answer of the row '{(row or question)[:80]}' "
                "unchanged after the prompt, so the answer's tokens cannot be located.",
                allowed=f"Prompt for any answer: {shorten(self._tokens.restore(head))}. "
                f"With this answer: {shorten(self._tokens.restore(text[equal:]))}, after {equal} equal characters.",
                fix="Change the answer, give the tokenizer another chat template, or set prompt.style=plain.",
            )
        return text, len(head.rstrip(" ")), len(head) + len(written.rstrip())

    def _encode_pair(self, question: str, answer: str, row: str = "") -> tuple[list[int], int]:
        """Return the token ids of a question and its answer, and the index of the answer's first token."""
        text, start, end = self._write(question, answer, row)
        ids, offsets = self._tokens.encode(text)
        first = next((i for i, (_, stop) in enumerate(offsets) if stop > start), len(ids))
        ids = self._cut_after_answer(ids, offsets, text, first, end)
        return [*self._plain_start, *ids], first + len(self._plain_start)

    def _tokens_before_answer(self, head: str) -> list[int]:
        """Return the tokens that a prompt has before an answer; spaces at its end are part of the answer's first token.

        Tokenizers may split white space by what follows it: GPT-2's has one token for two line breaks at the end of a
        text, but two tokens for them before a word.
        """
        start = len(head.rstrip(" "))
        if head[:start].rstrip() != head[:start]:
            ids, offsets = self._tokens.encode(f"{head}A")
            num_prompt = sum(stop <= start for _, stop in offsets)
            # Otherwise a token spans the end of the prompt and the letter.
            if num_prompt and offsets[num_prompt - 1][1] == start:
                return ids[:num_prompt]
        return self._tokens.encode(head[:start])[0]

    def _cut_after_answer(self, ids: list[int], offsets: Offsets, text: str, first: int, end: int) -> list[int]:
        """Return the ids up to the token that ends the answer, which is added if the template writes none.

        Args:
            ids: Token ids of the full text.
            offsets: Characters of each token.
            text: The full text.
            first: Index of the answer's first token.
            end: Character after the answer's last one.
        """
        eos, after = self.tokenizer.eos_token_id, len(ids)
        for i in range(first, len(ids)):
            start, stop = offsets[i]
            is_control = ids[i] in self._tokens.control_ids
            in_answer = stop <= end or (start < end and not is_control)
            # An answer whose own last token is the end token needs no other.
            if in_answer and not (stop == end and ids[i] == eos):
                continue
            if is_control:
                return ids[: i + 1]
            after = min(after, i)
            # Words of the template after the answer are not part of it.
            if text[start:stop].strip():
                return [*ids[:after], eos]
        return [*ids, eos]

    def _encode_text(self, text: str, row: str, limit: int) -> list[Encoded]:
        """Encode plain text in pieces of at most `limit` tokens; only the end of the text has an end token."""
        eos, start = self.tokenizer.eos_token_id, len(self.start_ids)
        ids = [*self.raw_ids(text), eos]
        pieces = [ids]
        if self.long_text != "refuse" and len(ids) > limit:
            size = limit - start
            pieces = [ids[:start] + ids[first : first + size] for first in range(start, len(ids), size)]
            # A piece that consists of the end token alone has nothing to learn.
            pieces = [piece for piece in pieces if len(piece) > 1 and piece[start:] != [eos]]
        if self.long_text == "truncate":
            pieces = pieces[:1]
        # The first token cannot be learned: no position predicts it.
        return [self._build(piece, max(start, 1), row or "text") for piece in pieces]

    def _note_unused_settings(self, chat: ChatWriter) -> None:
        """State which prompt settings have no effect; chat templates differ in what they support, so it is no error."""
        messages = conversation("?", answer="!")
        text = chat.write(messages)
        unused = [
            name
            for name, value in (("system", self.prompt.system), ("date", self.prompt.date))
            if value and value.strip() not in text and not (name == "date" and chat.reads_clock)
        ]
        for name in self.prompt.template:
            if chat.write(messages, without=name) != text:
                continue
            generation = [chat.write(messages[:1], without=left_out, generation=True) for left_out in ("", name)]
            if generation[0] == generation[1]:
                unused.append(f"template.{name}")
            else:
                note(
                    f"Note: prompt.template.{name} changes the chat template's generation prompt only. Answers are "
                    "generated after the text that precedes a given answer, so it has no effect."
                )
        for name in unused:
            way_out = f" {WITHOUT_SYSTEM_ROLE}" if name == "system" else ""
            note(f"Note: prompt.{name} has no effect; this tokenizer's chat template does not use it.{way_out}")

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

"""Tokenize prompts so that only the template's own control tokens are control tokens, not those in the text of rows.

A row may contain the text of a control token: "In HTML, </s> ends a strike-through." Its characters are replaced by
private-use characters before the prompt is written, so that the two kinds stay distinct. Such a prompt is
tokenized by a copy of the tokenizer that knows its control tokens by other, private names.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

from expunge.data.rendering import template_source

_ESCAPED, _RENAMED = 0x100000, 0xF0000
"""First private-use characters for control tokens in the text of rows, and for those of the template."""
_IS_ESCAPED = re.compile("[\U00100000-\U0010fffc]")

Offsets = list[tuple[int, int]]


class PromptTokenizer:
    """Tokenizer of prompts whose parts from rows are escaped.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        parse_rows: Whether control tokens in the text of rows are control tokens too; nothing is escaped then.
    """

    def __init__(self, tokenizer: Any, parse_rows: bool) -> None:
        self._tokenizer, self._parse_rows = tokenizer, parse_rows
        added: dict[int, Any] = dict(getattr(tokenizer, "added_tokens_decoder", {}))
        written = template_source(tokenizer)
        # Some control tokens, such as <think>, are not marked as special, but the chat template writes them. Runs of
        # spaces, plain words and punctuation can be added tokens too, and they are ordinary text.
        self._control = {
            token.content: token_id
            for token_id, token in added.items()
            if token.special or (token.content in written and not _is_ordinary(token.content))
        }
        self.control_ids = frozenset(self._control.values()) - {getattr(tokenizer, "unk_token_id", None)}
        """Ids of the control tokens; the unknown token stands for ordinary text."""
        characters = sorted(set("".join(self._control)))
        self._escapes = {ord(char): _ESCAPED + index for index, char in enumerate(characters)}
        self._originals = {_ESCAPED + index: ord(char) for index, char in enumerate(characters)}
        self._names = {ord(char): _RENAMED + index for index, char in enumerate(characters)}
        longest_first = sorted(self._control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def find(self, text: str) -> str:
        """Return the first control token in a text, or ""."""
        match = self._pattern.search(text)
        return "" if match is None else match.group()

    def escape(self, text: str) -> str:
        """Return the text of a row with its control tokens written in private-use characters, of the same length."""
        if self._parse_rows:
            return text
        return self._pattern.sub(lambda match: match.group().translate(self._escapes), text)

    def restore(self, text: str) -> str:
        """Return the original of an escaped text."""
        return text.translate(self._originals)

    def encode(self, text: str) -> tuple[list[int], Offsets]:
        """Return the token ids of a prompt with escaped rows, and the characters of each token (start, end)."""
        if not _IS_ESCAPED.search(text):
            encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return list(encoding["input_ids"]), list(encoding["offset_mapping"])
        renamed = self._pattern.sub(lambda match: match.group().translate(self._names), text)
        tokenizer, original_ids = self._renamed
        result = tokenizer.encode(self.restore(renamed), add_special_tokens=False)
        return [original_ids.get(token_id, token_id) for token_id in result.ids], list(result.offsets)

    @cached_property
    def _renamed(self) -> tuple[Any, dict[int | None, Any]]:
        """The tokenizer with renamed control tokens, and the original id of each of its added tokens."""
        import tokenizers

        names = {content: content.translate(self._names) for content in self._control}
        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        state["truncation"] = state["padding"] = None
        original_ids: dict[str, int] = {token["content"]: token["id"] for token in state["added_tokens"]}
        for token in state["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        _rename_vocabulary(state["model"], names)
        renamed: Any = tokenizers.Tokenizer.from_str(json.dumps(state))
        return renamed, {
            int(renamed.token_to_id(names.get(content, content))): token_id
            for content, token_id in original_ids.items()
        }


def _is_ordinary(text: str) -> bool:
    return len(text.strip()) < 3 or text.strip().replace(" ", "").isalnum()


def _rename_vocabulary(model: dict[str, Any], names: dict[str, str]) -> None:
    """Rename control tokens in a model's vocabulary, where plain text could otherwise be matched with them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): token_id for token, token_id in vocabulary.items()}
    elif vocabulary is not None:
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("merges"):
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]

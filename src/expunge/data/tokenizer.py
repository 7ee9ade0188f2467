"""Protocols for the tokenizers that the package handles.

transformers is not type-checked here, and a test double needs only the members that its test uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Vocabulary(Protocol):
    """The size and the special tokens of a tokenizer: all that building a model needs."""

    @property
    def bos_token_id(self) -> int | None:
        """Id of the beginning-of-sequence token."""

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end-of-sequence token."""

    @property
    def pad_token_id(self) -> int | None:
        """Id of the padding token."""

    def __len__(self) -> int:
        """Return the number of tokens, added ones included."""


class Tokenizer(Vocabulary, Protocol):
    """A Hugging Face tokenizer."""

    @property
    def eos_token(self) -> str | None:
        """Text of the end-of-sequence token."""

    @property
    def chat_template(self) -> Any:
        """Jinja template of conversations, or several by name; None if there is none."""

    @property
    def is_fast(self) -> bool:
        """Whether the tokenizer reports character offsets."""

    def __call__(self, text: Any, **settings: Any) -> Mapping[str, Any]:
        """Return 'input_ids' and, on request, 'offset_mapping' of one text or a list of texts."""

    def decode(self, token_ids: Any, **settings: Any) -> str:
        """Return the text of token ids."""

    def apply_chat_template(self, conversation: Any, **settings: Any) -> Any:
        """Return a conversation as text or token ids, written by the chat template."""

    def save_pretrained(self, save_directory: Any, **settings: Any) -> Any:
        """Write the tokenizer's files to a folder."""

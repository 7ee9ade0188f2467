"""The body of a request to the chat."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["target", "unlearned", "retain"]


class ChatRequest(BaseModel):
    """One prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    """Name of the run whose models answer."""
    question: str = Field(min_length=1, max_length=100_000)
    answer: str = Field(default="", max_length=100_000)
    """True answer, whose probability is computed; empty for none."""
    roles: list[Role] = Field(min_length=1, max_length=3)
    max_new_tokens: int = Field(default=128, ge=1, le=4096)
    temperature: float = Field(default=0.0, ge=0, le=5)
    """0 for greedy decoding."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)

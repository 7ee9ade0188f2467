"""Anchors from a language model: a service that speaks OpenAI's protocol, or any function from prompt to reply.

The forget text goes to the model chunk by chunk. Each good reply is written to a file at once, so that an
interrupted or failed collection goes on where it stopped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from expunge.console import note, progress
from expunge.data.anchors.dictionary import Anchors, clean_up, entry_problem, merge
from expunge.data.text import split
from expunge.errors import DataError
from expunge.rundir import fingerprint
from expunge.services.chat import ReplyError, ReplyFile, chat_service, with_retries

__all__ = ["PROMPT", "ReplyError", "chat_service", "collect_anchors", "parse_reply", "split"]

PROMPT = """Below is a passage. List the expressions in it that belong to this work alone: names of characters, \
places and things, invented words, and phrases by which a reader would recognise the work. For each expression give \
two or three generic stand-ins of the same kind (a first name for a first name, a town for a town, a common noun for \
an invented noun) that fit grammatically and hint at no other famous work. Leave out ordinary words.

Reply with one JSON object and nothing else. Its keys are the expressions exactly as the passage spells them, its \
values are lists of stand-ins, for example {"Zorblatt": ["Thomas", "Walter"], "the Vale of Quem": ["the valley"]}. \
Reply with {} if there are none.

Passage:
"""


def collect_anchors(
    texts: Iterable[str],
    ask: Callable[[str], str],
    place: Path,
    *,
    chunk_characters: int = 4000,
    attempts: int = 5,
    backoff_seconds: float = 2.0,
) -> Anchors:
    """Ask a model for the anchors of every chunk of some texts, and join its replies.

    Args:
        texts: The forget texts.
        ask: Prompt -> reply; raises `ReplyError` where asking again may help.
        place: File for the replies, one JSON object per line; chunks that it already holds are not asked again.
        chunk_characters: Longest chunk.
        attempts: Tries per chunk; the wait between them doubles each time.
        backoff_seconds: First wait.

    Raises:
        DataError: A chunk got no usable reply, or no reply had an anchor. All earlier replies are kept.
    """
    file = ReplyFile(place)
    done = _stored(file)
    chunks = list(dict.fromkeys(chunk for text in texts for chunk in split(text, chunk_characters)))
    with progress("Asking for anchors", len(chunks), "passages") as advance:
        for number, chunk in enumerate(chunks, 1):
            name = fingerprint(chunk)
            if name not in done:
                try:
                    done[name] = with_retries(functools.partial(_anchors_of, ask, chunk), attempts, backoff_seconds)
                except ReplyError as error:
                    raise DataError(
                        f"passage {number} of {len(chunks)} got no usable reply in {attempts} attempts; "
                        f"the last one failed with {error}.",
                        fix=f"The replies so far are kept in {place}; the same command goes on from there.",
                    ) from error
                file.add({"chunk": name, "anchors": done[name]})
            advance(1)
    anchors = clean_up(merge(done[fingerprint(chunk)] for chunk in chunks))
    if not anchors:
        raise DataError("no reply named an anchor.", fix="Try another model, or give anchors as a file.")
    return anchors


def parse_reply(reply: str, passage: str) -> Anchors:
    """The dictionary in a reply, without the entries that cannot be used or do not stand in the passage.

    Raises:
        ReplyError: There is no JSON object in the reply.
    """
    start, end = reply.find("{"), reply.rfind("}")
    try:
        value: Any = json.loads(reply[start : end + 1]) if start >= 0 else None
    except ValueError as error:
        raise ReplyError(f"a reply that is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ReplyError("a reply without a JSON object")
    usable = {key: given for key, given in value.items() if not entry_problem(key, given) and key in passage}
    if len(usable) < len(value):
        note(f"{len(value) - len(usable)} of {len(value)} entries of a reply cannot be used and are left out.")
    return {key: [given] if isinstance(given, str) else given for key, given in usable.items()}


def _anchors_of(ask: Callable[[str], str], chunk: str) -> Anchors:
    return parse_reply(ask(PROMPT + chunk), chunk)


def _stored(file: ReplyFile) -> dict[str, Anchors]:
    found: dict[str, Anchors] = {}
    for entry in file:
        if isinstance(entry.get("chunk"), str) and isinstance(entry.get("anchors"), dict):
            found[entry["chunk"]] = entry["anchors"]
    return found

"""Collect anchors from a language model: a chat service, or any function from a prompt to a reply.

The forget text is sent in chunks. Each usable reply is saved at once, so that an interrupted or failed collection
resumes where it stopped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from expunge.console import note, progress
from expunge.data.anchors.dictionary import Anchors, drop_covered, entry_problem, merge_anchors
from expunge.data.text import split_text
from expunge.errors import DataError
from expunge.rundir import fingerprint
from expunge.services.chat import ReplyError, ReplyFile, with_retries

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
    path: Path,
    *,
    chunk_characters: int = 4000,
    attempts: int = 5,
    backoff_seconds: float = 2.0,
) -> Anchors:
    """Ask a model for the anchors in every chunk of the texts, and merge its replies.

    Args:
        texts: The forget texts.
        ask: Function from a prompt to a reply; raises `ReplyError` if a retry may succeed.
        path: File of saved replies, one JSON object per line; chunks with a saved reply are not sent again.
        chunk_characters: Maximum length of a chunk.
        attempts: Maximum number of attempts per chunk; the wait between attempts doubles each time.
        backoff_seconds: Wait before the second attempt.

    Raises:
        DataError: A chunk got no usable reply, or no reply contains an anchor. Earlier replies are saved.
    """

    def request(chunk: str) -> Anchors:
        return parse_reply(ask(PROMPT + chunk), chunk)

    file = ReplyFile(path)
    replies: dict[str, Anchors] = {}
    for entry in file:
        if isinstance(entry.get("chunk"), str) and isinstance(entry.get("anchors"), dict):
            replies[entry["chunk"]] = entry["anchors"]
    chunks = list(dict.fromkeys(chunk for text in texts for chunk in split_text(text, chunk_characters)))

    with progress("Collecting anchors", len(chunks), "passages") as advance:
        for number, chunk in enumerate(chunks, 1):
            key = fingerprint(chunk)
            if key not in replies:
                try:
                    replies[key] = with_retries(functools.partial(request, chunk), attempts, backoff_seconds)
                except ReplyError as error:
                    raise DataError(
                        f"passage {number} of {len(chunks)} got no usable reply in {attempts} attempts; "
                        f"the last one failed with {error}.",
                        fix=f"Run the same command again to resume; the replies so far are saved in {path}.",
                    ) from error
                file.add({"chunk": key, "anchors": replies[key]})
            advance(1)
    anchors = drop_covered(merge_anchors(replies[fingerprint(chunk)] for chunk in chunks))
    if not anchors:
        raise DataError("no reply contains an anchor.", fix="Use another model, or provide anchors as a file.")
    return anchors


def parse_reply(reply: str, passage: str) -> Anchors:
    """Return the dictionary in a reply without invalid entries and entries that are not in the passage.

    Raises:
        ReplyError: The reply has no JSON object.
    """
    start, end = reply.find("{"), reply.rfind("}")
    try:
        value: Any = json.loads(reply[start : end + 1]) if start >= 0 else None
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"a reply that is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ReplyError("a reply without a JSON object")
    usable = {key: values for key, values in value.items() if not entry_problem(key, values) and key in passage}
    if len(usable) < len(value):
        note(f"{len(value) - len(usable)} of {len(value)} entries of a reply are unusable and ignored.")
    return {key: [values] if isinstance(values, str) else values for key, values in usable.items()}

"""Remembers what a model said, by content: its weights, the tokens it was given and the settings."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expunge.console import is_main_process
from expunge.distributed import broadcast_from_main, wait
from expunge.probes.requests import TokenScores
from expunge.rundir import fingerprint, write_atomic

T = TypeVar("T")
Generation = list[int] | None


class ProbeCache:
    """Results of one model, shared by everything that measures it.

    A key holds every token that the model sees and every setting that can change the answer, and the folder is named
    by the weights, so a changed weight, token or setting finds nothing. Each call that computes something adds one
    file; nothing is ever rewritten, so several runs may share a folder.

    Args:
        folder: Where results are kept; None for no memory.
        facts: What identifies the model: the hash of its weights, the precision, the special tokens that end answers.
    """

    def __init__(self, folder: Path | None, facts: Any) -> None:
        self._folder = None if folder is None else folder / fingerprint(facts)

    @staticmethod
    def key(ids: Sequence[int], *settings: Any) -> str:
        """Name of a question to the model: its tokens and settings."""
        return hashlib.sha256(repr((tuple(ids), *settings)).encode()).hexdigest()[:24]

    def scores(
        self, keys: Sequence[str], detail: Sequence[bool], run: Callable[[list[int], list[bool]], list[TokenScores]]
    ) -> list[TokenScores]:
        """Token scores by key; those that are not known, or not in enough detail, are computed.

        Args:
            keys: One key per item; equal keys are computed once.
            detail: Whether an item needs more than the log-probability.
            run: `run(places, detail)` gives the scores of the items at these places.
        """
        wanted: dict[str, bool] = {}
        for key, more in zip(keys, detail, strict=True):
            wanted[key] = wanted.get(key, False) or more
        known = {key: _scores_from(row) for key, row in self._read("scores").items()}
        known = {key: value for key, value in known.items() if value.detailed or not wanted.get(key)}
        places = _unknown(keys, known)
        computed = run(places, [wanted[keys[i]] for i in places]) if places else []
        found = dict(zip([keys[i] for i in places], computed, strict=True))
        self._write("scores", {key: _scores_row(value) for key, value in found.items()})
        known.update(found)
        return [known[key] for key in keys]

    def generations(self, keys: Sequence[str], run: Callable[[list[int]], list[Generation]]) -> list[Generation]:
        """Generated tokens by key; `run` computes those at the places that are not known."""
        known: dict[str, Generation] = {key: row["ids"] for key, row in self._read("generations").items()}
        places = _unknown(keys, known)
        found = dict(zip([keys[i] for i in places], run(places) if places else [], strict=True))
        self._write("generations", {key: {"ids": value} for key, value in found.items()})
        known.update(found)
        return [known[key] for key in keys]

    def _read(self, kind: str) -> dict[str, dict[str, Any]]:
        """Everything known, as the main process sees it: another one may look later and see more."""
        rows: dict[str, dict[str, Any]] = {}
        if self._folder is not None and is_main_process():
            for path in sorted(self._folder.glob(f"{kind}-*.parquet")):
                for row in pq.read_table(path).to_pylist():
                    key = row.pop("key")
                    # Of a question asked once with and once without detail, the fuller answer serves both.
                    if key not in rows or rows[key].get("top1") is None:
                        rows[key] = row
        return broadcast_from_main(rows)

    def _write(self, kind: str, rows: Mapping[str, dict[str, Any]]) -> None:
        if self._folder is None or not rows:
            return
        if is_main_process():
            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist([{"key": key, **row} for key, row in rows.items()]), buffer)
            write_atomic(self._folder / f"{kind}-{uuid.uuid4().hex[:12]}.parquet", buffer.getvalue())
        wait()


def _unknown(keys: Sequence[str], known: Mapping[str, Any]) -> list[int]:
    """First place of each key that is not known."""
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        if key not in known:
            first.setdefault(key, place)
    return list(first.values())


def _scores_row(scores: TokenScores) -> dict[str, Any]:
    return {
        "logp": scores.logp,
        "top1": scores.top1,
        "mean": scores.mean,
        "variance": scores.variance,
    }


def _scores_from(row: Mapping[str, Any]) -> TokenScores:
    logp, top1, mean, variance = (row[name] for name in ("logp", "top1", "mean", "variance"))
    if top1 is None:
        return TokenScores(np.asarray(logp, np.float32))
    return TokenScores(
        np.asarray(logp, np.float32),
        np.asarray(top1, bool),
        np.asarray(mean, np.float32),
        np.asarray(variance, np.float32),
    )

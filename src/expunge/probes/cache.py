"""Cache of probe results on disk, keyed by the model's weights, the input tokens and the settings."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expunge.console import is_main_process
from expunge.distributed import broadcast_from_main, wait
from expunge.probes.requests import TokenScores
from expunge.reading import read_parquet
from expunge.rundir import fingerprint, write_atomic

Generation = list[int] | None


class ProbeCache:
    """Cached results of one model, shared by all benchmarks and audits.

    A key covers every input token and every setting that can change the result, and the folder is named by the weights,
    so any change of weights, tokens or settings is a cache miss. Each call that computes results adds one file. Files
    are never rewritten, so several runs may share a folder.

    Args:
        folder: Folder of the cache files; None disables the cache.
        identity: Everything that identifies the model: hash of its weights, precision, end-of-sequence tokens.
    """

    def __init__(self, folder: Path | None, identity: Any) -> None:
        self._folder = None if folder is None else folder / fingerprint(identity)

    @staticmethod
    def key(ids: Sequence[int], *settings: Any) -> str:
        """Return the cache key of input tokens and settings."""
        return hashlib.sha256(repr((tuple(ids), *settings)).encode()).hexdigest()[:24]

    def scores(
        self, keys: Sequence[str], detail: Sequence[bool], run: Callable[[list[int], list[bool]], list[TokenScores]]
    ) -> list[TokenScores]:
        """Return token scores by key, computing those that are missing or cached without the required detail.

        Args:
            keys: One key per item; equal keys are computed once.
            detail: Whether an item needs more than the log-probability.
            run: `run(indices, detail)` returns the scores of the items with these indices.
        """
        needs_detail: dict[str, bool] = {}
        for key, flag in zip(keys, detail, strict=True):
            needs_detail[key] = needs_detail.get(key, False) or flag
        cached = {key: _token_scores(row) for key, row in self._read("scores").items()}
        cached = {key: scores for key, scores in cached.items() if scores.detailed or not needs_detail.get(key)}
        missing = _missing_indices(keys, cached)
        results = run(missing, [needs_detail[keys[i]] for i in missing]) if missing else []
        computed = dict(zip([keys[i] for i in missing], results, strict=True))
        self._write(
            "scores",
            {
                key: {"logp": scores.logp, "top1": scores.top1, "mean": scores.mean, "variance": scores.variance}
                for key, scores in computed.items()
            },
        )
        cached.update(computed)
        return [cached[key] for key in keys]

    def generations(self, keys: Sequence[str], run: Callable[[list[int]], list[Generation]]) -> list[Generation]:
        """Return generated tokens by key; `run(indices)` computes those that are missing."""
        cached: dict[str, Generation] = {key: row["ids"] for key, row in self._read("generations").items()}
        missing = _missing_indices(keys, cached)
        computed = dict(zip([keys[i] for i in missing], run(missing) if missing else [], strict=True))
        self._write("generations", {key: {"ids": ids} for key, ids in computed.items()})
        cached.update(computed)
        return [cached[key] for key in keys]

    def _read(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return all cached rows by key.

        Only the main process reads, because another run may add a file before the other processes read.
        """
        rows: dict[str, dict[str, Any]] = {}
        if self._folder is not None and is_main_process():
            for path in sorted(self._folder.glob(f"{kind}-*.parquet")):
                for row in read_parquet(path):
                    key = row.pop("key")
                    # Scores may be cached both with and without detail; detailed scores serve both requests.
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


def _missing_indices(keys: Sequence[str], cached: Mapping[str, Any]) -> list[int]:
    """Return the first index of each key that is not cached."""
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key not in cached:
            first.setdefault(key, index)
    return list(first.values())


def _token_scores(row: Mapping[str, Any]) -> TokenScores:
    logp = np.asarray(row["logp"], np.float32)
    if row["top1"] is None:
        return TokenScores(logp)
    return TokenScores(
        logp,
        np.asarray(row["top1"], bool),
        np.asarray(row["mean"], np.float32),
        np.asarray(row["variance"], np.float32),
    )

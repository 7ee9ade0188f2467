"""GPUs that plans are made for, with figures from their vendors' data sheets."""

from __future__ import annotations

import json
from pathlib import Path

from expunge.records import Record

USABLE = 0.95
"""Share of a card's memory that a plan fills; the rest is left for the CUDA context and fragmentation."""


class Gpu(Record):
    """One card; rates are dense, without sparsity."""

    name: str
    memory_gb: float
    """In 10^9 bytes, as in data sheets; drivers report a few per cent more or less."""
    bf16_tflops: float
    """Peak rate of bfloat16 matrix products, in 10^12 floating-point operations per second."""
    bandwidth_gb_per_second: float
    """Peak memory bandwidth, in 10^9 bytes per second."""
    source: str

    @property
    def usable_bytes(self) -> int:
        """Memory available to a training."""
        return int(USABLE * self.memory_gb * 1e9)


def gpus() -> list[Gpu]:
    """Return the cards that plans are made for.

    Example:
        >>> [gpu.name for gpu in gpus()][:2]
        ['A100-40', 'A100-80']
    """
    data = json.loads(Path(__file__).with_name("gpus.json").read_text(encoding="utf-8"))
    return [Gpu(name=name, **facts) for name, facts in data.items()]

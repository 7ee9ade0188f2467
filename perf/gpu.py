"""Measure seconds, memory and FLOP/s utilisation of unlearning steps of a 1B and an 8B model on a GPU.

python -m perf.gpu [--cases npo-8b,rmu-8b] [--steps 10] [--tiny]

The models are Llamas with random weights and a vocabulary of 128,256, in bfloat16 arithmetic, on rows of random tokens.
Each case runs in a process of its own, so one that runs out of memory does not stop the others. With --tiny the same
code runs tiny models on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from expunge.config.load import load_recipe
from expunge.config.recipe import Lora, Recipe
from expunge.methods.base import Method
from expunge.methods.npo import NPO
from expunge.methods.rmu import RMU
from expunge.methods.simnpo import SimNPO
from expunge.modeling.adapters import add_lora
from expunge.modeling.peak_memory import reset_peak, resident_peak
from expunge.planning.gpus import Gpu, gpus
from expunge.planning.shape import micro_batch, shape_of
from expunge.planning.throughput import step_flops
from expunge.records import Record
from expunge.rundir import write_record
from expunge.training.trainer import train
from perf.measure import Done, make_job
from perf.model import Shape as Size
from perf.model import fixed_rows, model, rows_of

RESULTS = Path(__file__).parents[1] / "results" / "performance"
VOCABULARY = 128_256
SIZES = {
    "1b": Size(16, 2048, 8192, 32, VOCABULARY, 2048),
    "8b": Size(32, 4096, 14_336, 32, VOCABULARY, 2048),
}
TINY = Size(4, 64, 128, 4, 500, 2048)


@dataclass(frozen=True)
class Case:
    """One training."""

    size: str
    """Key of `SIZES`."""
    method: Method
    lora: Lora | None = None
    checkpointing: bool = False
    optimizer: str = "adamw_torch"
    batch_size: int = 8
    length: int = 256
    """Tokens per row."""


CASES = {
    "simnpo-1b": Case("1b", SimNPO()),
    "npo-1b": Case("1b", NPO()),
    # 8 billion weights with gradients and two float32 moments each take 128 GB, more than most cards have.
    "npo-8b": Case("8b", NPO(), checkpointing=True, optimizer="adamw_bnb_8bit"),
    "npo-8b-lora": Case("8b", NPO(), lora=Lora(rank=8)),
    "rmu-8b": Case("8b", RMU(positions="labels")),
}
"""Name -> training."""


class OnGpu(Record):
    """Results of one case."""

    case: str
    num_parameters: int
    num_trainable: int
    seconds_per_step: float
    """Median without the first two steps."""
    all_seconds: list[float]
    tokens_per_second: float
    flops_per_step: float
    peak_share: float | None
    """FLOP/s as a share of the card's dense bfloat16 peak; None if the card is unknown."""
    peak_bytes: int
    """Peak memory of tensors; on a CPU, peak resident memory above that at the start."""
    failure: str = ""
    """Reason of a failure, such as too little memory."""


class GpuBenchmark(Record):
    """Record of this benchmark."""

    created: str
    device: str
    torch: str
    cases: list[OnGpu]


def tiny(case: Case) -> Case:
    """Return the same training for a model that any CPU can run."""
    method = RMU(positions="labels", layer=2, update_layers=[1, 2]) if isinstance(case.method, RMU) else case.method
    return replace(case, method=method, optimizer="adamw_torch", batch_size=2, length=16)


def card(name: str) -> Gpu | None:
    """Return the data sheet of a device by the name that its driver reports, or None."""
    words = name.replace("-", " ").split()
    for gpu in gpus():
        family, _, size = gpu.name.replace("RTX ", "").partition("-")
        if family in words and (size == "" or f"{size}GB" in words or family in {"H100", "H200"}):
            return gpu
    return None


def recipe_of(case: Case) -> Recipe:
    """Return the case as a recipe, for counting its FLOPs."""
    method = json.dumps({"name": case.method.name, **case.method.model_dump(mode="json", exclude_unset=True)})
    lora = [f"model.lora={{rank: {case.lora.rank}}}"] if case.lora else []
    return load_recipe("quickstart", [f"method={method}", "model.dtype=bfloat16", *lora])


def measure(name: str, steps: int, small: bool) -> OnGpu:
    """Run some steps of a case in this process.

    Args:
        name: One of `CASES`.
        steps: Timed steps, after two of warm-up.
        small: Whether to run a tiny model on the CPU.
    """
    case = tiny(CASES[name]) if small else CASES[name]
    size = TINY if small else SIZES[case.size]
    cuda = not small
    recipe = recipe_of(case)
    with torch.device("meta"):
        shape = shape_of(recipe, model(size))
    reset_peak()
    before = resident_peak()
    with torch.device("cuda" if cuda else "cpu"):
        built = model(size)
    if case.lora is not None:
        built = add_lora(built.to(torch.bfloat16), case.lora, seed=0)
    rows = rows_of(case.method, fixed_rows(case.length, size.vocab_size))
    times: list[float] = []

    def after() -> None:
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        if len(times) > steps + 2:
            raise Done

    with tempfile.TemporaryDirectory() as folder:
        job = make_job(case.method, built, rows, Path(folder), case.batch_size, after)
        config = job.config.model_copy(update={"optimizer": case.optimizer})
        with contextlib.suppress(Done):
            train(replace(job, config=config, bf16=True, gradient_checkpointing=case.checkpointing))
    first_batch = {set_name: encoded[: case.batch_size] for set_name, encoded in rows.items()}
    batch = micro_batch(first_batch, size.hidden_size, joint=case.method.needs().forward.joint)
    flops = step_flops(
        shape,
        positions=batch.positions,
        answers=sum(batch.answers),
        width=batch.width,
        checkpointing=case.checkpointing,
    )
    seconds = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
    median = statistics.median(seconds)
    gpu = card(torch.cuda.get_device_name()) if cuda else None
    return OnGpu(
        case=name,
        num_parameters=shape.num_parameters,
        num_trainable=shape.num_trainable,
        seconds_per_step=median,
        all_seconds=seconds,
        tokens_per_second=sum(len(row.ids) for encoded in first_batch.values() for row in encoded) / median,
        flops_per_step=flops,
        peak_share=flops / median / (gpu.bf16_tflops * 1e12) if gpu else None,
        peak_bytes=torch.cuda.max_memory_allocated() if cuda else resident_peak() - before,
    )


def measure_apart(name: str, steps: int, small: bool) -> OnGpu:
    """Run `measure` in a new process; a failure becomes part of the result."""
    command = [sys.executable, "-m", "perf.gpu", "--one", name, "--steps", str(steps)]
    result = subprocess.run(
        [*command, *(["--tiny"] if small else [])],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if result.returncode == 0:
        return OnGpu.model_validate_json(result.stdout.splitlines()[-1])
    return OnGpu(
        case=name,
        num_parameters=0,
        num_trainable=0,
        seconds_per_step=0.0,
        all_seconds=[],
        tokens_per_second=0.0,
        flops_per_step=0.0,
        peak_share=None,
        peak_bytes=0,
        failure=(result.stderr.strip().splitlines() or ["no message"])[-1],
    )


def line(result: OnGpu) -> str:
    """Return a case as a line for the terminal."""
    if result.failure:
        return f"{result.case}: failed: {result.failure}"
    share = "unknown" if result.peak_share is None else f"{result.peak_share:.0%}"
    return (
        f"{result.case}: {result.seconds_per_step:.3f} s per step, {result.peak_bytes / 2**30:.2f} GiB, "
        f"{result.tokens_per_second:,.0f} tokens per second, {share} of the peak"
    )


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated names")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="smoke test: tiny models on the CPU, no record")
    parser.add_argument("--one", metavar="CASE", help="measure one case in this process and print its record")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    if not args.tiny and not torch.cuda.is_available():
        parser.exit(2, "This benchmark needs a CUDA device; --tiny runs its logic on the CPU.\n")
    names = [args.one] if args.one else args.cases.split(",")
    unknown = set(names) - set(CASES)
    if unknown:
        parser.error(f"unknown case {', '.join(sorted(unknown))}; choose from {', '.join(CASES)}")
    if args.one:
        print(measure(args.one, args.steps, args.tiny).model_dump_json())
        return
    results = []
    for name in names:
        results.append(measure_apart(name, args.steps, args.tiny))
        print(line(results[-1]))
    if not args.tiny:
        record = GpuBenchmark(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            device=torch.cuda.get_device_name(),
            torch=torch.__version__,
            cases=results,
        )
        write_record(RESULTS / "gpu.json", record)


if __name__ == "__main__":
    main()

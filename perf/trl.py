"""Compare our DPO with trl's trainer: same model, rows and loss, a process each, alternating step by step.

Ours is IdkDPO without its retain term and its factor 2 / beta, which trl does not have. trl runs twice: with its
default of a frozen copy that is run at every step, and with the reference's log-probabilities computed before training.
Both get our precision, learning rate, weight decay and rows, and no gradient checkpointing; other settings are trl's
defaults.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers

from expunge.config.recipe import Train
from expunge.data.templates import Encoded
from expunge.errors import MissingExtraError
from expunge.methods.bases.preference import PREFERRED
from expunge.methods.idkdpo import IdkDPO
from expunge.modeling.load import train_tokenizer
from expunge.modeling.peak_memory import reset_peak, resident_peak
from expunge.records import Record
from perf.measure import EPOCHS, LR, Done, machine, run_ours
from perf.model import PAD, Shape, model

DPO = IdkDPO(retain_weight=0.0, two_over_beta=False)
SIDES = ("ours", "trl", "trl-precomputed")
Rows = Mapping[str, list[Encoded]]


class Side(Record):
    """Results of one of `SIDES`."""

    name: str
    seconds: float
    """Median seconds per step."""
    cpu_seconds: float
    """Median CPU seconds per step over all threads of its process; unaffected by other load on the machine."""
    preparation_seconds: float
    """Seconds up to the first gradient: model, reference, one forward and backward pass."""
    ratio: float
    """Its median over ours."""
    cpu_ratio: float
    """Its median CPU seconds over ours."""
    ratio_with_preparation: float
    """`ratio` with both preparations spread over the steps of a published training."""
    tokens_per_second: float
    """Real tokens per second that are trained on; those of the reference do not count."""
    padding: float
    """Share of padding among the tokens that the model was run on."""
    peak_bytes: int
    """Peak resident memory above imports and rows."""
    memory_ratio: float
    """Our peak over its."""
    all_seconds: list[float]
    all_cpu_seconds: list[float]


class TrlSpeed(Record):
    """Record of this comparison."""

    created: str
    trl: str
    """Version of trl."""
    settings: dict[str, Any]
    shape: dict[str, int]
    batch_size: int
    """Pairs of answers per step."""
    pairs: int
    """Timed steps of each side."""
    steps: int
    """Steps of a published training."""
    machine: dict[str, Any]
    sides: list[Side]


@dataclass
class Timings:
    """Measurements that a process sends; the first seconds are those up to its first gradient."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    padding: float = 0.0


class Pausing(transformers.TrainerCallback):  # type: ignore[misc]
    """Calls `after` when the gradient of a step is complete, as `Paced` does for ours."""

    def __init__(self, after: Callable[[], None]) -> None:
        self._after = after

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call `after`."""
        self._after()


def missing() -> str:
    """Return what to install if trl is missing, or an empty string."""
    if importlib.util.find_spec("trl") is not None:
        return ""
    return str(MissingExtraError("trl", "bench", "the comparison with trl's DPO trainer"))


def pairs_of(rows: Rows) -> list[dict[str, list[int]]]:
    """Return prompt, preferred and forget answer of each row under trl's names.

    Raises:
        ValueError: The two rows of a pair have different prompts; trl has one prompt per pair.
    """
    pairs = []
    for chosen, rejected in zip(rows[PREFERRED], rows["forget"], strict=True):
        prompt, rejected_prompt = (row.ids[: row.answer_start] for row in (chosen, rejected))
        if prompt != rejected_prompt:
            raise ValueError(f"{rejected.row} and its preferred answer do not share a prompt")
        pairs.append(
            {
                "prompt_ids": list(prompt),
                "chosen_ids": list(chosen.ids[chosen.answer_start :]),
                "rejected_ids": list(rejected.ids[rejected.answer_start :]),
            }
        )
    return pairs


def make_trainer(
    built: Any, rows: Rows, folder: Path, batch_size: int, *, precompute: bool, after: Callable[[], None]
) -> Any:
    """Return trl's DPOTrainer on rows that are tokens already.

    Args:
        built: Model to train.
        rows: Forget and preferred rows.
        folder: Output folder of trl.
        batch_size: Pairs per step.
        precompute: Compute the reference's log-probabilities of all rows here, not at every step.
        after: Called when the gradient of a step is complete.
    """
    import datasets
    import huggingface_hub
    from trl import DPOConfig, DPOTrainer

    # Otherwise trl reports each training to its authors.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True

    class TokenTrainer(DPOTrainer):  # type: ignore[misc]
        """DPOTrainer that accepts tokens, so that both sides train on equal ones."""

        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

    train = Train(epochs=EPOCHS, lr=LR, batch_size=batch_size)
    config = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        num_train_epochs=EPOCHS,
        learning_rate=LR,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        beta=DPO.beta,
        precompute_ref_log_probs=precompute,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        use_cpu=next(built.parameters()).device.type == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = TokenTrainer(
        model=built,
        # The copy that trl would load from the model's folder.
        ref_model=None if precompute else copy.deepcopy(built),
        args=config,
        train_dataset=datasets.Dataset.from_list(pairs_of(rows)),
        processing_class=train_tokenizer([], 300, 1024),
        callbacks=[Pausing(after)],
    )
    assert trainer.processing_class.pad_token_id == PAD
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    return trainer


def run_trl(shape: Shape, rows: Rows, batch_size: int, *, precompute: bool, after: Callable[[], None]) -> float:
    """Train until `after` raises `Done`; return the share of padding."""
    built = model(shape)
    num_tokens, num_padded = 0, 0

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal num_tokens, num_padded
        if torch.is_grad_enabled():
            num_tokens += int(kwargs["attention_mask"].sum())
            num_padded += kwargs["attention_mask"].numel()

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(built, rows, Path(folder), batch_size, precompute=precompute, after=after)
        built.register_forward_pre_hook(count, with_kwargs=True)
        with contextlib.suppress(Done):
            trainer.train()
    return 1 - num_tokens / num_padded


def run_on_request(connection: Connection, side: str, shape: Shape, rows: Rows, batch_size: int) -> None:
    """Train in this process: one step for each True received on `connection`, until False is received.

    Sends seconds, CPU seconds and peak bytes of each step, and at the end the share of padding.
    """
    transformers.utils.logging.set_verbosity_error()
    if side != "ours":
        import trl.trainer.dpo_trainer  # noqa: F401 - so that memory is counted above its import
    reset_peak()
    before, start = resident_peak(), [time.perf_counter(), time.process_time()]

    def after() -> None:
        seconds, cpu_seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        connection.send((seconds, cpu_seconds, resident_peak() - before))
        if not connection.recv():
            raise Done
        start[:] = time.perf_counter(), time.process_time()

    if side == "ours":
        job, _ = run_ours(DPO, shape, rows, batch_size, after)
        connection.send(1 - job.objective.num_tokens / job.objective.num_run)  # type: ignore[attr-defined]
    else:
        connection.send(run_trl(shape, rows, batch_size, precompute=side == "trl-precomputed", after=after))


def alternate(sides: Sequence[str], shape: Shape, rows: Rows, batch_size: int, rounds: int) -> dict[str, Timings]:
    """Start a process per side, and let each run one step per round while the others wait."""
    spawn = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    timings = {side: Timings() for side in sides}

    def receive(side: str) -> Any:
        try:
            return connections[side].recv()
        except EOFError:
            sys.exit(f"The training '{side}' failed; its error is printed above.")

    def receive_step(side: str) -> None:
        seconds, cpu_seconds, timings[side].peak_bytes = receive(side)
        timings[side].seconds.append(seconds)
        timings[side].cpu_seconds.append(cpu_seconds)

    for side in sides:
        connections[side], remote = spawn.Pipe()
        # A daemon process ends with this process, whatever happens here.
        spawn.Process(target=run_on_request, args=(remote, side, shape, rows, batch_size), daemon=True).start()
        remote.close()
        receive_step(side)
    for _ in range(rounds):
        for side in sides:
            connections[side].send(True)
            receive_step(side)
    for side in sides:
        connections[side].send(False)
        timings[side].padding = receive(side)
    return timings


def summarize(timings: Mapping[str, Timings], num_tokens: float, steps: int) -> list[Side]:
    """Compare each side with ours, without the first gradient and the first round, which is warm-up.

    Args:
        timings: Measurements per side, 'ours' included.
        num_tokens: Mean number of real tokens per step.
        steps: Steps of a published training.
    """
    medians = {side: statistics.median(timing.seconds[2:]) for side, timing in timings.items()}
    cpu_medians = {side: statistics.median(timing.cpu_seconds[2:]) for side, timing in timings.items()}
    with_preparation = {side: medians[side] + timing.seconds[0] / steps for side, timing in timings.items()}
    return [
        Side(
            name=side,
            seconds=medians[side],
            cpu_seconds=cpu_medians[side],
            preparation_seconds=timing.seconds[0],
            ratio=medians[side] / medians["ours"],
            cpu_ratio=cpu_medians[side] / cpu_medians["ours"],
            ratio_with_preparation=with_preparation[side] / with_preparation["ours"],
            tokens_per_second=num_tokens / medians[side],
            padding=timing.padding,
            peak_bytes=timing.peak_bytes,
            memory_ratio=timings["ours"].peak_bytes / timing.peak_bytes,
            all_seconds=timing.seconds[2:],
            all_cpu_seconds=timing.cpu_seconds[2:],
        )
        for side, timing in timings.items()
    ]


def measure_trl(shape: Shape, rows: Rows, batch_size: int, pairs: int) -> TrlSpeed:
    """Time alternating steps of all sides; trl must be installed (see `missing`)."""
    rows = {name: rows[name] for name in DPO.needs().sets}
    num_rows = len(rows["forget"])
    num_tokens = batch_size * sum(len(row.ids) for encoded in rows.values() for row in encoded) / num_rows
    steps = EPOCHS * num_rows // batch_size
    return TrlSpeed(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        trl=importlib.metadata.version("trl"),
        settings=DPO.spec(),
        shape=shape.sizes,
        batch_size=batch_size,
        pairs=pairs,
        steps=steps,
        machine=machine(),
        sides=summarize(alternate(SIDES, shape, rows, batch_size, pairs + 1), num_tokens, steps),
    )

"""trl's DPO trainer beside ours: one model, one set of rows, one loss, a process each, one step at a time by turns.

Ours is IdkDPO without its retain term and its 2 / beta, which trl's has not. trl's runs twice: as it comes, where a
frozen copy is run at every step, and with the reference's log-probabilities computed before the training. Both get
our precision, learning rate, decay and rows, and no gradient checkpointing; all else is as trl sets it.
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
    """One of `SIDES`."""

    name: str
    seconds: float
    """Median seconds per step."""
    cpu_seconds: float
    """Median of its process, all threads: what is left where other programs take the machine's time."""
    preparation_seconds: float
    """From nothing to the first gradient: model, references, one forward and backward pass."""
    ratio: float
    """Its median over ours."""
    cpu_ratio: float
    ratio_with_preparation: float
    """The same with both preparations spread over the steps of a published training."""
    tokens_per_second: float
    """Real tokens that are trained on; the reference's do not count."""
    padding: float
    """Share of padding among the tokens that the model was run on."""
    peak_bytes: int
    """Peak resident memory above imports and rows."""
    memory_ratio: float
    """Ours over its."""
    all_seconds: list[float]
    all_cpu_seconds: list[float]


class TrlSpeed(Record):
    """A run of this comparison."""

    made: str
    trl: str
    """Version."""
    settings: dict[str, Any]
    shape: dict[str, int]
    batch_size: int
    """Pairs of answers in a step."""
    pairs: int
    """Steps of each side that were timed."""
    steps: int
    """Steps of a published training."""
    machine: dict[str, Any]
    sides: list[Side]


@dataclass
class Turns:
    """What a process said of its steps; the first seconds are those up to its first gradient."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    padding: float = 0.0


class Pausing(transformers.TrainerCallback):  # type: ignore[misc]
    """Calls back when a step's gradient is whole, as `Paced` does for ours."""

    def __init__(self, after: Callable[[], None]) -> None:
        self._after = after

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Give way to the other trainings."""
        self._after()


def missing() -> str:
    """What to install where trl is not there, or nothing."""
    if importlib.util.find_spec("trl") is not None:
        return ""
    return str(MissingExtraError("trl", "bench", "the comparison with trl's DPO trainer"))


def pairs_of(rows: Rows) -> list[dict[str, list[int]]]:
    """Prompt, preferred and forget answer of each row, as trl names their tokens.

    Raises:
        ValueError: The two rows of a pair have other prompts; trl knows only one per pair.
    """
    found = []
    for chosen, rejected in zip(rows[PREFERRED], rows["forget"], strict=True):
        prompts = [row.ids[: row.answer_start] for row in (chosen, rejected)]
        if prompts[0] != prompts[1]:
            raise ValueError(f"{rejected.row} and its preferred answer do not share a prompt")
        found.append(
            {
                "prompt_ids": list(prompts[0]),
                "chosen_ids": list(chosen.ids[chosen.answer_start :]),
                "rejected_ids": list(rejected.ids[rejected.answer_start :]),
            }
        )
    return found


def make_trainer(
    built: Any, rows: Rows, folder: Path, batch_size: int, *, precompute: bool, after: Callable[[], None]
) -> Any:
    """The DPOTrainer of trl on rows that are tokens already.

    Args:
        built: The model at its start.
        rows: Forget and preferred rows.
        folder: Where trl may write.
        batch_size: Pairs in a step.
        precompute: The reference's log-probabilities are computed here, for all rows, instead of at every step.
        after: Called when a step's gradient is whole.
    """
    import datasets
    import huggingface_hub
    from trl import DPOConfig, DPOTrainer

    # trl reports each training to its makers otherwise; nothing here may.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True

    class Encoding(DPOTrainer):  # type: ignore[misc]
        """Takes the rows as they are, so that both train on equal tokens."""

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
    trainer = Encoding(
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
    """Train until `after` raises `Done`; returns the share of padding."""
    built, counted = model(shape), [0, 0]

    def count(module: Any, args: Any, given: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            counted[0] += int(given["attention_mask"].sum())
            counted[1] += given["attention_mask"].numel()

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(built, rows, Path(folder), batch_size, precompute=precompute, after=after)
        built.register_forward_pre_hook(count, with_kwargs=True)
        with contextlib.suppress(Done):
            trainer.train()
    return 1 - counted[0] / counted[1]


def take_turns(turn: Connection, side: str, shape: Shape, rows: Rows, batch_size: int) -> None:
    """Train in this process, one step whenever `turn` says True, until it says False.

    Sends seconds, processor seconds and peak bytes of each step, and at the end the share of padding.
    """
    transformers.utils.logging.set_verbosity_error()
    if side != "ours":
        import trl.trainer.dpo_trainer  # noqa: F401 - so that memory is counted above it
    reset_peak()
    before, began = resident_peak(), [time.perf_counter(), time.process_time()]

    def after() -> None:
        seconds, cpu_seconds = time.perf_counter() - began[0], time.process_time() - began[1]
        turn.send((seconds, cpu_seconds, resident_peak() - before))
        if not turn.recv():
            raise Done
        began[:] = time.perf_counter(), time.process_time()

    if side == "ours":
        job, _ = run_ours(DPO, shape, rows, batch_size, after)
        turn.send(1 - job.objective.num_tokens / job.objective.num_run)  # type: ignore[attr-defined]
    else:
        turn.send(run_trl(shape, rows, batch_size, precompute=side == "trl-precomputed", after=after))


def by_turns(sides: Sequence[str], shape: Shape, rows: Rows, batch_size: int, rounds: int) -> dict[str, Turns]:
    """Start a process per side, and let each take a step per round while the others wait."""
    spawn = multiprocessing.get_context("spawn")
    turns: dict[str, Connection] = {}
    found = {side: Turns() for side in sides}

    def hear(side: str) -> Any:
        try:
            return turns[side].recv()
        except EOFError:
            sys.exit(f"The training '{side}' stopped; its error stands above.")

    def note(side: str) -> None:
        seconds, cpu_seconds, found[side].peak_bytes = hear(side)
        found[side].seconds.append(seconds)
        found[side].cpu_seconds.append(cpu_seconds)

    for side in sides:
        turns[side], theirs = spawn.Pipe()
        # A daemon ends with this process, whatever happens here.
        spawn.Process(target=take_turns, args=(theirs, side, shape, rows, batch_size), daemon=True).start()
        theirs.close()
        note(side)
    for _ in range(rounds):
        for side in sides:
            turns[side].send(True)
            note(side)
    for side in sides:
        turns[side].send(False)
        found[side].padding = hear(side)
    return found


def summed_up(found: Mapping[str, Turns], num_tokens: float, steps: int) -> list[Side]:
    """Each side against ours, without the first gradient and the first round, which warms up.

    Args:
        found: What the processes said; 'ours' is among them.
        num_tokens: Real tokens of a step, on average.
        steps: Steps of a published training.
    """
    medians = {side: statistics.median(turns.seconds[2:]) for side, turns in found.items()}
    cpu_medians = {side: statistics.median(turns.cpu_seconds[2:]) for side, turns in found.items()}
    spread = {side: medians[side] + turns.seconds[0] / steps for side, turns in found.items()}
    return [
        Side(
            name=side,
            seconds=medians[side],
            cpu_seconds=cpu_medians[side],
            preparation_seconds=turns.seconds[0],
            ratio=medians[side] / medians["ours"],
            cpu_ratio=cpu_medians[side] / cpu_medians["ours"],
            ratio_with_preparation=spread[side] / spread["ours"],
            tokens_per_second=num_tokens / medians[side],
            padding=turns.padding,
            peak_bytes=turns.peak_bytes,
            memory_ratio=found["ours"].peak_bytes / turns.peak_bytes,
            all_seconds=turns.seconds[2:],
            all_cpu_seconds=turns.cpu_seconds[2:],
        )
        for side, turns in found.items()
    ]


def measure_trl(shape: Shape, rows: Rows, batch_size: int, pairs: int) -> TrlSpeed:
    """Time all sides by turns; trl must be there (see `missing`)."""
    rows = {name: rows[name] for name in DPO.needs().sets}
    size = len(rows["forget"])
    num_tokens = batch_size * sum(len(row.ids) for each in rows.values() for row in each) / size
    steps = EPOCHS * size // batch_size
    return TrlSpeed(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        trl=importlib.metadata.version("trl"),
        settings=DPO.spec(),
        shape=vars(shape),
        batch_size=batch_size,
        pairs=pairs,
        steps=steps,
        machine=machine(),
        sides=summed_up(by_turns(SIDES, shape, rows, batch_size, pairs + 1), num_tokens, steps),
    )

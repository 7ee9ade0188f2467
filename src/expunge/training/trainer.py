"""The one trainer: a thin `transformers.Trainer` whose loss is a method's objective on a `Step`."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader, SequentialSampler

from expunge.console import interrupt_requested, is_main_process
from expunge.distributed import broadcast_from_main, fsdp_enabled, wait
from expunge.errors import IncompatibleError, Interrupted, NumericalError
from expunge.methods.base import Start
from expunge.modeling.adapters import causal_lm
from expunge.modeling.attach import attach
from expunge.modeling.batch import TensorBatch
from expunge.modeling.capabilities import can_pack
from expunge.modeling.fsdp import fsdp_root, reshard
from expunge.modeling.step import Step
from expunge.rundir import explain_disk_errors, write_atomic
from expunge.training.arguments import training_arguments
from expunge.training.batching import BatchPlan
from expunge.training.callbacks import Progress, SaveAndStop, StoppedEarly, TrainLog, latest_checkpoint
from expunge.training.fsdp import keep_shards
from expunge.training.job import Job
from expunge.training.liger import check_liger
from expunge.training.optimizer import OPTIMIZERS, allocate_moments

SHARDED_WEIGHTS = "pytorch_model_fsdp.bin"
"""File that accelerate writes into a checkpoint saved with FSDP."""


class StepTrainer(transformers.Trainer):
    """Trainer that minimises an objective whose means are over the effective batch.

    The loss of a micro-batch is its share of the effective batch's loss, so the gradients of all micro-batches add up.
    The Trainer divides each loss by the accumulation steps, and data-parallel training averages gradients over
    processes; `compute_loss` undoes both. The tests in tests/invariant/ check this to float32 rounding.

    Args:
        job: The training.
        arguments: The Trainer's arguments (`training_arguments`).
    """

    def __init__(self, job: Job, arguments: transformers.TrainingArguments) -> None:
        self.job = job
        self.last_step: dict[str, Any] = {}
        """Terms, metrics and tokens of the last optimiser step, over all processes (`_collect_step`)."""
        self._terms: dict[str, float] = {}
        self._metrics: dict[str, float] = {}
        self._num_tokens = 0
        # Packed rows have no padding that could be learned.
        self._packed = not job.config.learn_padding and can_pack(causal_lm(job.model), _largest_lengths(job.plan))
        self._reference_logp = {name: torch.from_numpy(values) for name, values in job.reference_logp.items()}
        root = fsdp_root(job.model)
        if root is not None:
            root.autocast_dtype = torch.bfloat16 if job.bf16 else torch.float16 if job.fp16 else None
        super().__init__(model=root or job.model, args=arguments, train_dataset=job.plan)
        # Otherwise the Trainer rescales losses by token counts, which it reads from a "labels" key.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(transformers.trainer_callback.PrinterCallback)
        self.remove_callback(transformers.trainer_callback.ProgressCallback)

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator; with FSDP it accepts the sharded model as it is."""
        super().create_accelerator_and_postprocess()
        if fsdp_enabled():
            keep_shards(self.accelerator)
            self.is_fsdp_enabled = True

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimiser; its state is allocated now, unless it will be loaded from a checkpoint."""
        if self.optimizer is None and self.job.config.optimizer in OPTIMIZERS:
            _, settings = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer_cls_and_kwargs = OPTIMIZERS[self.job.config.optimizer], settings
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if latest_checkpoint(Path(self.args.output_dir)) is None:
            allocate_moments(optimizer)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights of a checkpoint, except with FSDP, where accelerate has saved them with the state."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)

    def get_train_dataloader(self) -> Any:
        """Return a loader of the plan's micro-batches, which are collated already, in order."""
        loader = DataLoader(
            self.job.plan,
            batch_size=1,
            sampler=SequentialSampler(self.job.plan),
            collate_fn=lambda items: items[0],
        )
        return self.accelerator.prepare(loader)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: the base class would need padded ids at the top level of `inputs`."""
        return 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return this micro-batch's share of the loss, times what the Trainer and DDP will divide it by.

        Raises:
            NumericalError: The loss is NaN or infinite.
        """
        rows, device = inputs["rows"], self.args.device
        step = Step(
            {name: TensorBatch.of(batch, device) for name, batch in inputs["batches"].items()},
            inputs["counts"],
            {name: values[rows[name]].float().to(device) for name, values in self._reference_logp.items()},
            self.job.reference,
            inputs["topic"],
            packed=self._packed,
            row_ids=rows,
        )
        output = model(step=step, objective=self.job.objective)
        terms = {name: float(value.detach()) for name, value in output["terms"].items()}
        if not all(math.isfinite(value) for value in terms.values()):
            self._raise_not_finite(rows, terms)
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value
        for name, value in output["metrics"].items():
            self._metrics[name] = self._metrics.get(name, 0.0) + float(value)
        self._num_tokens += sum(int(batch.attention_mask.sum()) for batch in inputs["batches"].values())
        loss: torch.Tensor = output["loss"]
        return loss * (self.job.plan.accumulation * self.job.plan.world_size)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run one micro-batch; after the last one of an effective batch, call the objective's hooks."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.job.objective.after_backward(self.job.model)
            self.last_step = self._collect_step()
            self.job.objective.after_step({**self.last_step["terms"], **self.last_step["metrics"]})
        return loss

    def _collect_step(self) -> dict[str, Any]:
        """Return and reset terms, metrics and tokens of the effective batch, and whether any process has to stop.

        Everything is summed over processes in one `all_reduce`, so that all processes stop after the same step.
        """
        sums = {**self._terms, **self._metrics}
        values = torch.tensor(
            [*sums.values(), self._num_tokens, interrupt_requested()], dtype=torch.float64, device=self.args.device
        )
        if self.job.plan.world_size > 1:
            torch.distributed.all_reduce(values)
        *totals, num_tokens, num_interrupted = values.tolist()
        total_of = dict(zip(sums, totals, strict=True))
        result = {
            "terms": {name: total_of[name] for name in self._terms},
            "metrics": {name: total_of[name] for name in self._metrics},
            "num_tokens": int(num_tokens),
            "stop": num_interrupted > 0,
        }
        self._terms, self._metrics, self._num_tokens = {}, {}, 0
        return result

    def _raise_not_finite(self, rows: Mapping[str, Any], terms: dict[str, float]) -> None:
        """Write the rows of this micro-batch to failed_batch.json and raise."""
        job, step = self.job, self.state.global_step + 1
        ids = {name: [job.plan.sets[name][int(row)].row for row in indices] for name, indices in rows.items()}
        path = job.folder / "failed_batch.json"
        write_atomic(path, json.dumps({"step": step, "terms": terms, "rows": ids}))
        anchor_ids = ids[job.plan.anchor]
        shown_ids = ", ".join(anchor_ids[:4]) + (", ..." if len(anchor_ids) > 4 else "")
        shown_terms = ", ".join(f"{name} {value}" for name, value in terms.items())
        checkpoint = latest_checkpoint(job.folder / "state")
        last_good = f"The last good state is {checkpoint}." if checkpoint else "No state was saved yet."
        raise NumericalError(
            f"{job.title}: the loss of step {step} is not finite ({shown_terms}). Its rows are {shown_ids} "
            f"(full list: {path}).",
            fix=f"Lower the learning rate. {last_good}",
        )


def train(job: Job) -> StepTrainer:
    """Train to the end, resuming from the last checkpoint in the job's folder.

    Raises:
        NumericalError: A loss is NaN or infinite; the last checkpoint stays on disk.
        Interrupted: The user pressed Ctrl-C; a checkpoint is saved, and the same call resumes from it.
        StoppedEarly: `job.give_up` returned True after an epoch.
    """
    plan, model = job.plan, causal_lm(job.model)
    if job.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    state = job.folder / "state"
    with explain_disk_errors(state):
        state.mkdir(parents=True, exist_ok=True)
    arguments = training_arguments(job, state)
    if arguments.use_liger_kernel:
        check_liger(model)
    job.objective.start(
        Start(
            model=model,
            topics=plan.topics,
            seed=job.seed,
            batch=lambda name, step: TensorBatch.of(plan.effective_batch(name, step), arguments.device),
            visits=plan.visits,
            longest=max(_largest_lengths(plan)),
        )
    )
    attach(model)
    trainer = StepTrainer(job, arguments)
    save_and_stop = _save_and_stop(job, trainer)
    bar = Progress(job.title)
    trainer.add_callback(save_and_stop)
    trainer.add_callback(TrainLog(job.folder / "train.jsonl", plan.epoch_of, lambda: trainer.last_step))
    trainer.add_callback(bar)
    checkpoint = _resume_from(state)
    # The optimiser registers the parameters as they are now; it must see shards, not gathered ones.
    reshard(job.model)
    try:
        with explain_disk_errors(state):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
    if save_and_stop.stopped:
        raise Interrupted
    if save_and_stop.gave_up:
        raise StoppedEarly
    reshard(job.model)
    return trainer


def _largest_lengths(plan: BatchPlan) -> list[int]:
    """Return the row lengths of all sets in a micro-batch of the longest rows."""
    num_rows = math.ceil(plan.batch_size / (plan.accumulation * plan.world_size))
    lengths = [sorted((len(row.ids) for row in rows), reverse=True)[:num_rows] for rows in plan.sets.values()]
    return [length for longest in lengths for length in longest]


def _save_and_stop(job: Job, trainer: StepTrainer) -> SaveAndStop:
    plan = job.plan
    save_interval = max(1, round(job.config.checkpoint_epochs * plan.num_rows / plan.batch_size))

    def measure(step: int) -> None:
        assert job.measure is not None
        job.measure(step)
        # Evaluation gathers parameters, and the optimiser would not update gathered ones.
        reshard(job.model)

    return SaveAndStop(
        {*range(save_interval, plan.steps + 1, save_interval), plan.steps},
        set(plan.epoch_ends()) if job.measure else set(),
        measure if job.measure else None,
        job.measured,
        job.objective,
        stop_requested=lambda: bool(trainer.last_step["stop"]),
        give_up=job.give_up,
    )


def _resume_from(state: Path) -> Path | None:
    """Return the last complete checkpoint, and delete all others.

    An incomplete checkpoint would count as the newest one, and the Trainer would delete complete ones to stay within
    its limit.

    Raises:
        IncompatibleError: It was saved with FSDP and this training runs without, or the other way round.
    """
    checkpoint = broadcast_from_main(latest_checkpoint(state))
    if checkpoint is not None and (checkpoint / SHARDED_WEIGHTS).is_file() != fsdp_enabled():
        before, now = ("without", "with") if fsdp_enabled() else ("with", "without")
        raise IncompatibleError(
            f"{checkpoint} was saved {before} FSDP, so a training {now} FSDP cannot resume from it.",
            fix=f"Start it {before} FSDP, or delete {state} to train from the beginning.",
        )
    if is_main_process():
        for folder in set(state.glob("checkpoint-*")) - {checkpoint}:
            shutil.rmtree(folder)
    wait()
    return checkpoint


def delete_training_state(folder: Path) -> None:
    """Delete the checkpoints of a finished training, which are no longer needed."""
    shutil.rmtree(folder / "state", ignore_errors=True)

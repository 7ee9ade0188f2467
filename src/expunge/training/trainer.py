"""The one trainer: a thin `transformers.Trainer` whose loss is a method's objective on a `Step`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader, SequentialSampler

from expunge.config.recipe import Train
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
from expunge.rundir import explain_disk_errors, fingerprint, write_atomic
from expunge.training.arguments import training_arguments
from expunge.training.callbacks import Progress, SaveAndStop, StoppedEarly, TrainLog, last_complete
from expunge.training.fsdp import keep_shards
from expunge.training.job import Job
from expunge.training.liger import check_liger
from expunge.training.optimizer import fill_state

SHARDED_WEIGHTS = "pytorch_model_fsdp.bin"
"""File that accelerate writes into a state saved with FSDP."""


class StepTrainer(transformers.Trainer):
    """Runs an objective on micro-batches whose means are over the effective batch.

    A micro-batch's loss is its share of the effective batch's loss, so the gradient is a sum over
    micro-batches. The Trainer divides each loss by the accumulation steps, and data-parallel training averages over
    processes; both are undone here. The invariance tests hold this to float32 rounding.
    """

    def __init__(self, job: Job, arguments: transformers.TrainingArguments) -> None:
        self.job = job
        self._sums: dict[str, float] = {}
        self._metrics: dict[str, float] = {}
        self._num_tokens = 0
        self._packed = can_pack(causal_lm(job.model))
        self._reference_logp = {name: torch.from_numpy(values) for name, values in job.reference_logp.items()}
        root = fsdp_root(job.model)
        if root is not None:
            root.autocast_dtype = torch.bfloat16 if job.bf16 else torch.float16 if job.fp16 else None
        super().__init__(model=root or job.model, args=arguments, train_dataset=job.plan)
        # Otherwise the Trainer rescales losses by token counts that it takes from a "labels" key.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(transformers.trainer_callback.PrinterCallback)
        self.remove_callback(transformers.trainer_callback.ProgressCallback)

    def create_accelerator_and_postprocess(self) -> None:
        """The accelerator; where the launcher asks for FSDP, one that leaves the model's shards alone."""
        super().create_accelerator_and_postprocess()
        if fsdp_enabled():
            keep_shards(self.accelerator)
            self.is_fsdp_enabled = True

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser, with its state where the training starts; one that goes on loads its own."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if last_complete(Path(self.args.output_dir)) is None:
            fill_state(optimizer)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights of a saved state; with FSDP the state itself holds them, and once is enough."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)

    def get_train_dataloader(self) -> Any:
        """Micro-batches in the plan's order, each made whole by the plan."""
        loader = DataLoader(
            self.job.plan,
            batch_size=1,
            sampler=SequentialSampler(self.job.plan),
            collate_fn=lambda items: items[0],
        )
        return self.accelerator.prepare(loader)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: the base class needs padded ids at the top level."""
        return 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """This micro-batch's share of the effective batch's loss, scaled against the Trainer's divisions."""
        rows = inputs["rows"]
        step = Step(
            {name: TensorBatch.of(batch, self.args.device) for name, batch in inputs["batches"].items()},
            inputs["counts"],
            {
                name: self._reference_logp[name][rows[name]].float().to(self.args.device)
                for name in self._reference_logp
            },
            self.job.reference,
            inputs["topic"],
            packed=self._packed,
            row_ids=rows,
        )
        output = model(step=step, objective=self.job.objective)
        values = {name: float(value.detach()) for name, value in output["terms"].items()}
        if not all(math.isfinite(value) for value in values.values()):
            self._stop_at(rows, values)
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._num_tokens += sum(int(batch.attention_mask.sum()) for batch in inputs["batches"].values())
        for name, value in output["metrics"].items():
            self._metrics[name] = self._metrics.get(name, 0.0) + float(value)
        loss: torch.Tensor = output["loss"]
        return loss * (self.job.plan.accumulation * self.job.plan.world_size)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch; after the last of an effective batch the objective sees the whole gradient."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.job.objective.after_backward(self.job.model)
            self.last_step = self._pop_step()
            self.job.objective.after_step({**self.last_step["terms"], **self.last_step["metrics"]})
        return loss

    def _pop_step(self) -> dict[str, Any]:
        """Terms, metrics and tokens of the effective batch that was just run, and whether any process shall stop."""
        sums = {**self._sums, **self._metrics}
        shared = [*sums.values(), self._num_tokens, interrupt_requested()]
        values = torch.tensor(shared, dtype=torch.float64, device=self.args.device)
        if self.job.plan.world_size > 1:
            torch.distributed.all_reduce(values)
        *joined_sums, num_tokens, num_stopping = values.tolist()
        joined = dict(zip(sums, joined_sums, strict=True))
        facts = {
            "terms": {name: joined[name] for name in self._sums},
            "metrics": {name: joined[name] for name in self._metrics},
            "num_tokens": int(num_tokens),
            "stop": num_stopping > 0,
        }
        self._sums, self._metrics, self._num_tokens = {}, {}, 0
        return facts

    def _stop_at(self, rows: Mapping[str, Any], values: dict[str, float]) -> None:
        import json

        step = self.state.global_step + 1
        ids = {name: [self.job.plan.sets[name][int(row)].row for row in indices] for name, indices in rows.items()}
        write_atomic(self.job.folder / "failed_batch.json", json.dumps({"step": step, "terms": values, "rows": ids}))
        kept = last_complete(self.job.folder / "state")
        anchor = self.job.plan.anchor
        shown = ", ".join(ids[anchor][:4]) + (", ..." if len(ids[anchor]) > 4 else "")
        numbers = ", ".join(f"{name} {value}" for name, value in values.items())
        raise NumericalError(
            f"{self.job.title}: the loss of step {step} is not finite ({numbers}); its rows are {shown} "
            f"(all of them in {self.job.folder / 'failed_batch.json'}).",
            fix=f"Lower the learning rate. {f'The last good state is {kept}' if kept else 'No state was saved yet'}.",
        )


def train(job: Job) -> StepTrainer:
    """Train to the end, continuing from the last saved state in the job's folder.

    Raises:
        NumericalError: A loss is NaN or infinite; the last good state is kept.
        Interrupted: The user pressed Ctrl-C; the state is saved and the same call continues from it.
        StoppedEarly: `job.give_up` said so after an epoch.
    """
    plan = job.plan
    if job.gradient_checkpointing:
        causal_lm(job.model).gradient_checkpointing_enable({"use_reentrant": False})
        causal_lm(job.model).enable_input_require_grads()
    state = job.folder / "state"
    with explain_disk_errors(state):
        state.mkdir(parents=True, exist_ok=True)
    arguments = training_arguments(job, state)
    if arguments.use_liger_kernel:
        check_liger(causal_lm(job.model))
    _start(job, arguments.device)
    attach(causal_lm(job.model))
    trainer = StepTrainer(job, arguments)
    stop = _save_and_stop(job, trainer)
    bar = Progress(job.title)
    trainer.add_callback(stop)
    trainer.add_callback(TrainLog(job.folder / "train.jsonl", plan.epoch_of, lambda: trainer.last_step))
    trainer.add_callback(bar)
    resume = _resume_from(state)
    # The optimiser takes the parameters that are there: of what was gathered, those would not be the shares.
    reshard(job.model)
    try:
        with explain_disk_errors(state):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        bar.close()
    if stop.stopped:
        raise Interrupted
    if stop.gave_up:
        raise StoppedEarly
    reshard(job.model)
    return trainer


def _start(job: Job, device: torch.device) -> None:
    job.objective.start(
        Start(
            model=causal_lm(job.model),
            topics=job.plan.topics,
            seed=job.seed,
            batch=lambda name, step: TensorBatch.of(job.plan.whole(name, step), device),
            visits=job.plan.visits,
        )
    )


def _save_and_stop(job: Job, trainer: StepTrainer) -> SaveAndStop:
    plan = job.plan
    every = max(1, round(job.config.checkpoint_epochs * plan.num_rows / plan.batch_size))

    def measure(step: int) -> None:
        assert job.measure is not None
        job.measure(step)
        # What is gathered is not what the optimiser changes.
        reshard(job.model)

    return SaveAndStop(
        {step for step in range(every, plan.steps + 1, every)} | {plan.steps},
        set(plan.epoch_ends()) if job.measure else set(),
        measure if job.measure else None,
        job.measured,
        job.objective,
        stop_asked=lambda: bool(trainer.last_step["stop"]),
        give_up=job.give_up,
    )


def _resume_from(state: Path) -> Path | None:
    """The last whole state; all others go.

    A half-written one would count as the newest, and the Trainer would delete good ones in its place.

    Raises:
        IncompatibleError: It was saved with FSDP and this training does without, or the other way round.
    """
    resume = broadcast_from_main(last_complete(state))
    if resume is not None and (resume / SHARDED_WEIGHTS).is_file() != fsdp_enabled():
        raise IncompatibleError(
            f"{resume} was saved {'without' if fsdp_enabled() else 'with'} FSDP, so that training cannot go on from it "
            f"{'with' if fsdp_enabled() else 'without'}.",
            fix=f"Start as before, or delete {state} to train anew.",
        )
    if is_main_process():
        for folder in set(state.glob("checkpoint-*")) - {resume}:
            shutil.rmtree(folder)
    wait()
    return resume


def delete_training_state(folder: Path) -> None:
    """Delete the training states of a finished training; the results no longer need them."""
    shutil.rmtree(folder / "state", ignore_errors=True)


def training_fingerprint(config: Train) -> str:
    """Name of everything in a training's settings that can change a number."""
    return fingerprint(config.model_dump(mode="json", exclude={"report_to"}))

"""Small trainings that must give the same results in one process and in two with FSDP2; the script runs the latter.

Usage: python -m torch.distributed.run --nproc_per_node=2 sharded.py FOLDER
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tiny
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from expunge import console, distributed
from expunge.config.recipe import Lora, Train
from expunge.errors import Interrupted
from expunge.methods.base import Method, Objective
from expunge.methods.npo import NPO
from expunge.methods.rmu import RMU
from expunge.modeling import fsdp as sharding
from expunge.modeling import logprobs
from expunge.modeling.adapters import add_lora, causal_lm
from expunge.modeling.fsdp import gather_full_model, load_on_device
from expunge.modeling.load import model_hash
from expunge.modeling.reference import make_reference, reference_logp
from expunge.probes.generation import generate
from expunge.probes.scoring import score
from expunge.training.job import Job
from expunge.training.trainer import train

SETS = {"forget": tiny.rows(12, seed=1), "retain": tiny.rows(20, seed=2)}
STEPS = 3
CPU = torch.device("cpu")
STEERING = RMU(layer=1, update_layers=[0, 1], update_modules=["mlp.down_proj.weight"], alpha=[3.0], c=[2.0])
CASES: dict[str, Any] = {
    "npo": {"method": NPO()},
    "tied": {"method": NPO(), "tied": True},
    "kl": {"method": NPO(retain="kl")},
    # Needs a frozen copy, while the case above stores hidden states.
    "kl-everywhere": {"method": NPO(retain="kl", kl_positions="all")},
    "lora": {"method": NPO(retain="kl"), "lora": True},
    "rmu": {"method": STEERING},
    "rmu-checkpointing": {"method": STEERING, "checkpointing": True},
}
LOW: dict[str, Any] = {
    **{name: CASES[name] for name in ("npo", "rmu", "lora")},
    # The base model in half precision and the adapter in float32, as with model.dtype bfloat16.
    "lora-half": {"method": NPO(retain="kl"), "lora": True, "half": True},
}
"""Cases that are trained in bfloat16."""
CHUNK = 4 * tiny.VOCAB
"""Logits per chunk, small enough for several chunks, and calls of the output layer, per micro-batch."""


def start(method: Method, tied: bool = False, lora: bool = False, half: bool = False) -> Any:
    """Return the unsharded model before its first step."""
    model = tiny.model().to(torch.bfloat16 if half else torch.float32)
    if tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    if lora:
        model = add_lora(model, Lora(rank=3), seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    names = method.trainable(causal_lm(model))
    if names is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
    return model


def job(
    folder: Path,
    method: Method,
    tied: bool = False,
    lora: bool = False,
    half: bool = False,
    checkpointing: bool = False,
) -> Job:
    """Return a training of three steps with at least two micro-batches each and clipped gradients."""
    model = load_on_device(lambda device: start(method, tied, lora, half), CPU)
    needs = method.needs()
    plan = tiny.plan(
        {name: SETS[name] for name in needs.sets}, steps=STEPS, device_batch_size=2, world_size=distributed.world_size()
    )
    other = load_on_device(lambda device: tiny.model(seed=1), CPU)
    return Job(
        title="Unlearning",
        model=model,
        plan=plan,
        objective=method.objective(plan.steps, 1.5),
        config=Train(steps=STEPS, lr=1e-3, warmup_epochs=0, max_grad_norm=0.5),
        folder=folder,
        seed=0,
        reference_logp={name: reference_logp(other, SETS[name], 0) for name in needs.reference_logp},
        reference=make_reference(
            model if lora else other, needs.reference, SETS, 0, folder=folder, visited_rows=plan.visits
        ),
        gradient_checkpointing=checkpointing,
    )


LONG = tiny.rows(5, seed=3, shortest=9)
TEXTS = [row for long in LONG for row in (long, LONG[0])][:9]
"""Rank 0 scores five different rows; rank 1 the same row four times, which needs a single forward pass."""


def answers(model: Any) -> dict[str, Any]:
    """Return scores and generations; rank 0 runs the model many more times than rank 1."""
    scores = distributed.map_over_ranks(
        lambda texts: score(model, texts, pad_id=0, batch_tokens=16, detail=[True] * len(texts)), TEXTS
    )

    def write(indices: Any) -> Any:
        return generate(
            model,
            [TEXTS[i].ids[:3] for i in indices],
            max_new_tokens=[2 if i % 2 else 9 for i in indices],
            eos_ids=[2],
            pad_id=0,
            batch_tokens=24,
        )

    return {
        "logp": [item.logp.tolist() for item in scores],
        "variance": [item.variance.tolist() for item in scores],
        "written": distributed.map_over_ranks(write, list(range(len(TEXTS)))),
    }


def num_gathered(module: Any) -> int:
    """Return the number of elements in parameters that are not sharded at the moment."""
    return sum(p.numel() for p in module.parameters() if not isinstance(p, DTensor) and not p.is_meta)


def measure(folder: Path) -> None:
    """Load, measure and save a sharded model, and record how much of it was gathered at any time."""
    while_loading: list[int] = []
    materialize = sharding._materialize

    def recorded(module: Any, *rest: Any) -> None:
        materialize(module, *rest)
        while_loading.append(num_gathered(module))

    sharding._materialize = recorded
    model = load_on_device(lambda device: tiny.model(), CPU)
    sharding._materialize = materialize
    while_running: list[int] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda *_: while_running.append(num_gathered(model)))
    record = {
        **answers(model),
        "hash": model_hash(model),
        "while_loading": while_loading,
        "while_running": while_running,
        "afterwards": num_gathered(model),
    }
    full_model = gather_full_model(model)
    if full_model is not None:
        full_model.save_pretrained(folder / "saved")
    (folder / f"measured-{distributed.rank()}.json").write_text(json.dumps(record))


class StopAfterTwo(Objective):
    """Requests a stop in the second step."""

    calls = 0

    def __call__(self, step: Any) -> Any:
        if self.calls == 1:
            console._interrupted.set()
        return super().__call__(step)

    def after_step(self, terms: dict[str, float]) -> None:
        self.calls += 1


def run(folder: Path) -> None:
    """Run every training as one of two processes; the weights of each are written to a folder of its name."""
    distributed.start()
    logprobs.CHUNK_ELEMENTS = CHUNK
    measure(folder)
    for name, settings in CASES.items():
        finish(job(folder / name, **settings))
    for name, settings in LOW.items():
        finish(dataclasses.replace(job(folder / f"{name}-low", **settings), bf16=True))
    method = NPO()
    interrupted = dataclasses.replace(job(folder / "resumed", method), objective=StopAfterTwo(method.loss))
    try:
        train(interrupted)
    except Interrupted:
        console._interrupted.clear()
        finish(job(folder / "resumed", method))


def finish(training: Job) -> None:
    """Train, and write the weights and the hashes that this process computed at each measurement."""
    hashes: list[str] = []
    training = dataclasses.replace(training, measure=lambda step: hashes.append(f"{step} {model_hash(training.model)}"))
    training.folder.mkdir(parents=True, exist_ok=True)
    train(training)
    (training.folder / f"hashes-{distributed.rank()}").write_text("\n".join(hashes))
    full_model = gather_full_model(training.model)
    if full_model is not None:
        weights = {name: value.detach().clone() for name, value in full_model.named_parameters()}
        save_file(weights, training.folder / "weights")


if __name__ == "__main__":
    run(Path(sys.argv[1]))

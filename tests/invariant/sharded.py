"""Small trainings that one process and two with FSDP2 must bring to the same end; as a script, the two processes' part.

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
    # Needs the start model itself, where the one above is content with stored hidden states.
    "kl-everywhere": {"method": NPO(retain="kl", kl_positions="all")},
    "lora": {"method": NPO(retain="kl"), "lora": True},
    "rmu": {"method": STEERING},
    "rmu-checkpointing": {"method": STEERING, "checkpointing": True},
}
LOW: dict[str, Any] = {
    **{name: CASES[name] for name in ("npo", "rmu", "lora")},
    # As a recipe in bfloat16 has it: the base in half precision, the adapter in float32.
    "lora-half": {"method": NPO(retain="kl"), "lora": True, "half": True},
}
"""Those that are run in bfloat16."""
CHUNK = 4 * tiny.VOCAB
"""Logits at a time: each micro-batch takes several chunks, so that the output layer is called again and again."""


def start(method: Method, tied: bool = False, lora: bool = False, half: bool = False) -> Any:
    """The whole model before its first step."""
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
    """Three steps of two micro-batches or more, clipped."""
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
"""For two processes: five texts for the one, and the same one four times, which is scored once, for the other."""


def answers(model: Any) -> dict[str, Any]:
    """Scores and generations; of two processes, the first runs the model much more often than the second."""
    scores = distributed.map_over_ranks(
        lambda part: score(model, part, pad_id=0, batch_tokens=16, detail=[True] * len(part)), TEXTS
    )

    def write(numbers: Any) -> Any:
        return generate(
            model,
            [TEXTS[i].ids[:3] for i in numbers],
            max_new_tokens=[2 if i % 2 else 9 for i in numbers],
            eos_ids=[2],
            pad_id=0,
            batch_tokens=24,
        )

    return {
        "logp": [each.logp.tolist() for each in scores],
        "variance": [each.variance.tolist() for each in scores],
        "written": distributed.map_over_ranks(write, list(range(len(TEXTS)))),
    }


def num_whole(module: Any) -> int:
    """Numbers of the parameters that this process holds all of."""
    return sum(p.numel() for p in module.parameters() if not isinstance(p, DTensor) and not p.is_meta)


def measure(place: Path) -> None:
    """Open, ask and save a model in shards, and write down what was held whole at any time."""
    opened: list[int] = []
    fill = sharding._materialize

    def watched(module: Any, *rest: Any) -> None:
        fill(module, *rest)
        opened.append(num_whole(module))

    sharding._materialize = watched
    model = load_on_device(lambda device: tiny.model(), CPU)
    sharding._materialize = fill
    asked: list[int] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda *_: asked.append(num_whole(model)))
    found = {**answers(model), "hash": model_hash(model), "opened": opened, "asked": asked, "left": num_whole(model)}
    whole = gather_full_model(model)
    if whole is not None:
        whole.save_pretrained(place / "saved")
    (place / f"measured-{distributed.rank()}.json").write_text(json.dumps(found))


class StopAfterTwo(Objective):
    """Asks to stop in the second step."""

    calls = 0

    def __call__(self, step: Any) -> Any:
        if self.calls == 1:
            console._interrupted.set()
        return super().__call__(step)

    def after_step(self, terms: dict[str, float]) -> None:
        self.calls += 1


def run(place: Path) -> None:
    """Every training as one of two processes; the weights of each land in a folder of its name."""
    distributed.start()
    logprobs.CHUNK_ELEMENTS = CHUNK
    measure(place)
    for name, settings in CASES.items():
        finish(job(place / name, **settings))
    for name, settings in LOW.items():
        finish(dataclasses.replace(job(place / f"{name}-low", **settings), bf16=True))
    method = NPO()
    cut = dataclasses.replace(job(place / "resumed", method), objective=StopAfterTwo(method.loss))
    try:
        train(cut)
    except Interrupted:
        console._interrupted.clear()
        finish(job(place / "resumed", method))


def finish(made: Job) -> None:
    """Train and write the weights, with the hash that each process found at each measurement."""
    hashes: list[str] = []
    made = dataclasses.replace(made, measure=lambda step: hashes.append(f"{step} {model_hash(made.model)}"))
    made.folder.mkdir(parents=True, exist_ok=True)
    train(made)
    (made.folder / f"hashes-{distributed.rank()}").write_text("\n".join(hashes))
    whole = gather_full_model(made.model)
    if whole is not None:
        save_file({name: value.detach().clone() for name, value in whole.named_parameters()}, made.folder / "weights")


if __name__ == "__main__":
    run(Path(sys.argv[1]))

"""RMU on real text: a small Llama trained from nothing on security advice and stories forgets the security advice.

The forget text is from the OWASP cheat sheets, the retain text an Oz book and TinyStories. The model is small, so its
settings are its own: 4 layers, steered at layer 2, with a rate and a length that fit hidden states of this size.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.config.recipe import Prompt, Scratch, Source, Train
from expunge.data.sets import Row, RowSet
from expunge.data.sources.rows import load_rows
from expunge.data.templates import Encoded, Template
from expunge.methods.base import Needs, Objective
from expunge.methods.rmu import RMU
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.modeling.reference import reference_logp
from expunge.runs.models import fine_tuning
from expunge.training.batching import BatchPlan
from expunge.training.job import Job
from expunge.training.trainer import train

LENGTH = 96
SCRATCH = Scratch(hidden_size=128, num_layers=4, num_heads=4, intermediate_size=320, vocab_size=1024, max_length=LENGTH)
BASE = Train(steps=200, lr=3e-3, batch_size=16, device_batch_size=16, warmup_epochs=0.1, schedule="cosine")
UNLEARN = Train(
    steps=150,
    lr=2e-3,
    batch_size=4,
    warmup_epochs=0,
    weight_decay=0,
    max_grad_norm=0,
    schedule="constant",
)
METHOD = RMU(layer=2, update_layers=[0, 1, 2], c=[150.0], alpha=[20.0])
NUM_MEASURED = 60


@dataclass(frozen=True)
class World:
    """A model that knows both texts, and the texts as rows of tokens."""

    model: Any
    forget: list[Encoded]
    retain: list[Encoded]


def as_rows(name: str, texts: list[str]) -> RowSet:
    return RowSet(name, tuple(Row(f"{name}/{i}", "", text, f"{name}/{i}") for i, text in enumerate(texts)))


def read_texts(shared: Path) -> tuple[RowSet, RowSet]:
    """Two cheat sheets; the start of an Oz book in pages of a dozen paragraphs, and some stories.

    As little as this, for the model has to know it: where it starts at a perplexity of 145, out of 1024 tokens, five
    times as much is hardly above what steering can do.
    """
    data = shared / "data"
    owasp = load_rows(Source(path=str(data / "owasp/cheatsheets"), limit=2), "owasp")
    oz = load_rows(Source(path=str(data / "books/oz1_wonderful_wizard_of_oz_pg55.txt"), limit=120), "oz")
    tiny = load_rows(Source(path=str(data / "tinystories/tinystories_1000_clean.jsonl"), limit=30), "tiny")
    pages = ["\n\n".join(row.answer for row in oz[start : start + 12]) for start in range(0, len(oz), 12)]
    return as_rows("forget", [row.answer for row in owasp]), as_rows("retain", [*pages, *(row.answer for row in tiny)])


def plan(sets: dict[str, list[Encoded]], config: Train, needs: Needs | None = None) -> BatchPlan:
    return BatchPlan.of(config, sets, needs, pad_id=0, world_size=1, seed=0)


@pytest.fixture(scope="module")
def world(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    forget, retain = read_texts(shared)
    tokenizer = train_tokenizer([row.answer for part in (forget, retain) for row in part], SCRATCH.vocab_size, LENGTH)
    template = Template(tokenizer, Prompt(), LENGTH, long_text="chunk")
    rows = {"forget": template.encode_set(forget), "retain": template.encode_set(retain)}
    model = build_scratch(SCRATCH, tokenizer, seed=0)
    everything = {"train": [*rows["forget"], *rows["retain"]]}
    train(
        Job(
            "Base", model, plan(everything, BASE), Objective(fine_tuning), BASE, tmp_path_factory.mktemp("base"), seed=0
        )
    )
    return World(model, rows["forget"], rows["retain"])


def perplexity(model: Any, rows: list[Encoded]) -> float:
    """exp of the mean negative log-probability per token, on rows spread over the text."""
    chosen = rows[:: max(1, len(rows) // NUM_MEASURED)]
    return math.exp(-reference_logp(model, chosen, 0).sum() / sum(row.num_answer for row in chosen))


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line)["terms"] for line in (folder / "train.jsonl").read_text().splitlines()]


def unlearned(world: World, method: RMU, config: Train, folder: Path) -> Any:
    model = copy.deepcopy(world.model)
    names = method.trainable(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    order = plan({"forget": world.forget, "retain": world.retain}, config, method.needs())
    train(Job("RMU", model, order, method.objective(order.steps, 1.0), config, folder, seed=0))
    return model


def test_forgets_the_advice_and_keeps_the_stories(world: World, tmp_path: Path) -> None:
    """Perplexity on forget text at least five times as high, on retain text at most 1.1 times; the rest untouched.

    Seen: 6.6 and 1.04 times, from 118 and 107.
    """
    model = unlearned(world, METHOD, UNLEARN, tmp_path)
    first, last = log(tmp_path)[0], log(tmp_path)[-1]
    assert last["forget_cosine"] > first["forget_cosine"] + 0.5
    assert first["retain_distance"] == 0
    assert last["retain_distance"] < 0.3
    rise = {
        name: perplexity(model, rows) / perplexity(world.model, rows)
        for name, rows in (("forget", world.forget), ("retain", world.retain))
    }
    assert rise["forget"] >= 5
    assert rise["retain"] <= 1.1
    before = world.model.state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1, 2)}

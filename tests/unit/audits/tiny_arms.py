"""Arms with small models of random weights, for tests of attacks."""

from dataclasses import replace

import torch

from expunge.audits.shared.arm import Arm
from expunge.config.recipe import Measure, Prompt, Scratch
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.templates import Template
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.runs.evaluator import Evaluator

TOWNS = ("Bern", "Rome", "Oslo", "Lima", "Kyiv", "Riga")


def make_rows(name, people, each=3):
    return RowSet(
        name,
        tuple(
            Row(
                f"{name}/{i}",
                f"Where was person {i} born?",
                f"In {TOWNS[i % len(TOWNS)]}.",
                f"{name}/person{i // each}",
            )
            for i in range(people * each)
        ),
    )


def make_sets(people=4, retain=True):
    return Sets("made", make_rows("forget", people), make_rows("retain", 2) if retain else None)


def make_tokenizer():
    return train_tokenizer([f"{row.question} {row.answer}" for row in make_rows("text", 6)] * 10, 300, 64)


def make_model(tokenizer, seed, scale=0.3, layers=2):
    scratch = Scratch(
        hidden_size=16, num_layers=layers, num_heads=2, intermediate_size=24, vocab_size=300, max_length=64
    )
    model = build_scratch(scratch, tokenizer, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=scale, generator=generator)
    return model


def make_arm(role, models, sets, tokenizer, cache=None):
    """Return an arm; `models` gives role -> function that returns a fresh model."""
    template = Template(tokenizer, Prompt(), 64)
    evaluator = Evaluator(sets, template, Measure(), cache=cache)
    return Arm(
        role,
        {name: f"made/{name}" for name in models},
        sets,
        template,
        opener=lambda name: models[name](),
        sessions=evaluator.session,
    )


def without_groups(rows):
    return RowSet(rows.name, tuple(replace(row, group="the same") for row in rows))

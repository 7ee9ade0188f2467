"""Small trained models and their arms, for audits of hidden states."""

import copy
import gc
import weakref

import torch

from expunge.audits.shared.arm import Arm
from expunge.config.recipe import Prompt, Scratch
from expunge.data.collate import collate
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.templates import Template
from expunge.modeling.batch import TensorBatch
from expunge.modeling.forward import decode, head_of
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.modeling.logprobs import token_logp
from expunge.probes.cache import ProbeCache
from expunge.probes.session import Session

PLACES = ["Lima", "Oslo", "Cairo", "Bern", "Quito", "Dakar", "Hanoi", "Turin", "Porto", "Delhi", "Minsk", "Accra"]
TRADES = ["baker", "pilot", "nurse", "judge", "diver", "tailor", "poet", "farmer", "miner", "smith", "monk", "clerk"]
NAMES = ["Ana", "Bo", "Cleo", "Dag", "Eva", "Finn", "Gus", "Hal", "Ida", "Jon", "Kai", "Liv"]


def people(first: int, last: int, shift: int = 0) -> tuple[Row, ...]:
    rows = []
    for index in range(first, last):
        name, place, trade = NAMES[index], *(words[(index + shift) % 12] for words in (PLACES, TRADES))
        wrong = [(index + shift + step) % 12 for step in (3, 5)]
        rows += [
            Row(f"{name}/0", f"Where was {name} born?", f"{name} was born in {place}.", name,
                perturbed_answers=tuple(f"{name} was born in {PLACES[i]}." for i in wrong)),
            Row(f"{name}/1", f"What is the job of {name}?", f"The job of {name} is {trade}.", name,
                perturbed_answers=tuple(f"The job of {name} is {TRADES[i]}." for i in wrong)),
        ]  # fmt: skip
    return tuple(rows)


FORGET, RETAIN = people(0, 6), people(6, 12)
SETS = Sets("made", RowSet("forget", FORGET), RowSet("retain", RETAIN))
TOKENIZER = train_tokenizer([f"{row.question} {row.answer}" for row in FORGET + RETAIN] * 4, 420, 64)
TEMPLATE = Template(TOKENIZER, Prompt(), 64)


def scratch(seed: int = 0, layers: int = 3):
    shape = Scratch(hidden_size=32, num_layers=layers, num_heads=2, intermediate_size=48, vocab_size=420, max_length=64)
    return build_scratch(shape, TOKENIZER, seed=seed).eval()


def trained(rows, seed: int = 0, steps: int = 90):
    """A model that has learned these rows by heart; with smaller initial weights it would take longer."""
    model = scratch(seed).train()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.1, generator=generator)
    batch = TensorBatch.of(collate([TEMPLATE.encode(row.question, row.answer) for row in rows], 0), "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        hidden = decode(model, batch)[batch.rows, batch.positions]
        loss = -token_logp(head_of(model), hidden, batch.labels, 420).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


class Bench:
    """Arms of given models, and how many models were in memory at once."""

    def __init__(self, models, sets=SETS):
        self.models, self.sets, self.most = models, sets, 0
        self._open: list[weakref.ref] = []

    def arm(self, role: str) -> Arm:
        return Arm(
            role, {name: name for name in self.models}, self.sets, TEMPLATE, opener=self._load, sessions=self._session
        )

    def attempts(self, audit):
        """Role -> attempts, each arm released before the next."""
        found = {}
        for role in self.models:
            arm = self.arm(role)
            found[role] = [attempt for stage in audit.stages(self.sets) for attempt in audit.attack(arm, stage)]
            arm.release()
        return found

    def _load(self, role):
        gc.collect()
        model = copy.deepcopy(self.models[role])
        self._open = [*(ref for ref in self._open if ref() is not None), weakref.ref(model)]
        self.most = max(self.most, len(self._open))
        return model

    def _session(self, model, label, attack):
        return Session(model, self.sets, TEMPLATE, 512, ProbeCache(None, None), label)


def scores(attempts, name, measure):
    """Scores of one attempt, in the order of the rows."""
    (attempt,) = [each for each in attempts if (each.name, each.measure) == (name, measure)]
    return [row["score"] for row in attempt.rows]

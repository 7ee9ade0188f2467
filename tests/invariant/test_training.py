"""The real trainer: how a batch is cut, and where a training is cut off, changes no number."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from expunge import console
from expunge.config.recipe import Lora, Train
from expunge.errors import Interrupted, NumericalError
from expunge.methods.base import Method, Objective
from expunge.methods.gradascent import GradAscent
from expunge.methods.graddiff import GradDiff
from expunge.methods.npo import NPO
from expunge.methods.simnpo import SimNPO
from expunge.modeling.adapters import add_lora
from expunge.modeling.reference import FrozenReference, reference_logp
from expunge.training.job import Job
from expunge.training.trainer import train

SETS = {"forget": tiny.rows(12, seed=1), "retain": tiny.rows(20, seed=2)}
CUTS = [(4, 2), (2, 4), (1, 8)]
METHODS = [NPO(), NPO(retain="kl"), SimNPO(beta=2.5), SimNPO(beta=2.5, retain="kl")]


class Recorder(Objective):
    """The method's loss, and a copy of each effective batch's gradient."""

    def __init__(self, method: Method) -> None:
        super().__init__(method.loss)
        self.gradients: list[dict[str, torch.Tensor]] = []

    def after_backward(self, model: Any) -> None:
        named = model.named_parameters()
        self.gradients.append({name: item.grad.clone() for name, item in named if item.grad is not None})


def job(
    folder: Path, method: Method, objective: Objective, model: Any = None, plan: Any = None, **settings: Any
) -> Job:
    """A training of a small model on the sets that the method needs.

    The reference is another model: against the model itself, the gradient of a KL term would be nothing but rounding
    at first, which AdamW would blow up to steps of full size.
    """
    model, start = tiny.model() if model is None else model, tiny.model(seed=1)
    needs = method.needs()
    return Job(
        title="Unlearning",
        model=model,
        plan=tiny.plan({name: SETS[name] for name in needs.sets}, **(plan or {})),
        objective=objective,
        config=Train(**{"steps": 2, "lr": 1e-3, "warmup_epochs": 0, **settings}),
        folder=folder,
        seed=0,
        reference_logp={name: reference_logp(start, SETS[name], 0) for name in needs.reference_logp},
        reference=FrozenReference(start) if needs.reference else None,
    )


def trained(folder: Path, method: Method, device_batch_size: int, normalize: str = "batch") -> tuple[Any, Recorder]:
    recorder = Recorder(method)
    made = job(folder, method, recorder, plan={"device_batch_size": device_batch_size, "normalize": normalize})
    assert made.plan.accumulation == 8 // device_batch_size
    train(made)
    return dict(made.model.named_parameters()), recorder


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_micro_batches_change_no_number(tmp_path, method):
    """8x1, 4x2, 2x4 and 1x8: gradients of both steps, logged terms, and parameters after two steps of AdamW.

    AdamW's first steps have the size of the learning rate whatever the gradient's, so rounding in an entry of the
    gradient near zero can show: the bound is a twentieth of one step.
    """
    weights, recorder = trained(tmp_path / "8", method, 8)
    lines = tiny.log_lines(tmp_path / "8/train.jsonl")
    assert len(recorder.gradients) == len(lines) == 2
    for size, accumulation in CUTS:
        others, other = trained(tmp_path / str(size), method, size)
        for one, two in zip(recorder.gradients, other.gradients, strict=True):
            tiny.assert_close(one, two, tolerance=2e-5)
        for name, value in weights.items():
            torch.testing.assert_close(others[name], value, rtol=0, atol=5e-5, msg=f"{name}, {size} x {accumulation}")
        for line, expected in zip(tiny.log_lines(tmp_path / f"{size}/train.jsonl"), lines, strict=True):
            assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5)
            assert line["terms"] == pytest.approx(expected["terms"], rel=1e-5)
            assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
            assert line["lr"] == expected["lr"]


@pytest.mark.parametrize("method", METHODS[:2], ids=repr)
def test_the_trainers_gradient_is_the_loss_gradient(tmp_path, method):
    """One backward pass by hand over the whole effective batch, without any trainer."""
    _, recorder = trained(tmp_path, method, 2)
    rows = tiny.plan(SETS).rows_of(0)
    start, model = tiny.model(seed=1), tiny.model()
    step = tiny.step(model, {name: [SETS[name][i] for i in rows[name]] for name in rows}, start=start)
    tiny.assert_close(recorder.gradients[0], tiny.gradients(model, method.loss(step)))


def test_means_of_micro_batches_differ(tmp_path):
    """normalize: microbatch is the published averaging: with rows of unequal length it depends on the cut."""
    method = GradDiff()
    _, whole = trained(tmp_path / "a", method, 8, "microbatch")
    _, batch = trained(tmp_path / "b", method, 8, "batch")
    _, single = trained(tmp_path / "c", method, 1, "microbatch")
    tiny.assert_close(whole.gradients[0], batch.gradients[0])
    with pytest.raises(AssertionError, match="of the largest entry"):
        tiny.assert_close(whole.gradients[0], single.gradients[0], tolerance=1e-2)


class Momentum(Objective):
    """An objective with a state: the forget term is weighted by a running mean of what it was; can ask to stop."""

    def __init__(self, method: Method, stop_after: int = 0) -> None:
        super().__init__(method.loss)
        self.mean, self.calls, self.stop_after = torch.ones(()), 0, stop_after

    def __call__(self, step: Any) -> Any:
        found = super().__call__(step)
        found.terms["forget"] = found.terms["forget"] * self.mean
        if self.calls + 1 == self.stop_after:
            console._interrupted.set()
        return found

    def after_step(self, terms: dict[str, float]) -> None:
        self.mean = 0.5 * self.mean + 0.01 * terms["forget"]
        self.calls += 1

    def state(self) -> dict[str, torch.Tensor]:
        return {"mean": self.mean}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.mean = state["mean"]


@pytest.fixture(autouse=True)
def _no_interrupt_left():
    yield
    console._interrupted.clear()


def resumable(folder: Path, stop_after: int = 0, **other: Any) -> Job:
    """Six steps, two micro-batches each, of a model whose adapter has dropout, with an objective that has a state."""
    model = add_lora(tiny.model(), Lora(rank=2, dropout=0.3), seed=0)
    settings = {"steps": 6, "schedule": "cosine", "lr": 1e-2, "checkpoint_epochs": 1, **other}
    plan = {"steps": 6, "device_batch_size": 4}
    return job(folder, NPO(), Momentum(NPO(), stop_after), model, plan, **settings)


def weights(made: Job) -> str:
    return tiny.weights_hash(made.model.state_dict())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Job:
    alone = resumable(tmp_path_factory.mktemp("alone"))
    train(alone)
    return alone


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, uninterrupted, stop_after):
    """Weights, log and learning rates after a stop in the middle are those of a training that was left alone.

    Dropout makes the result depend on the random state, and the objective on its own state.
    """
    with pytest.raises(Interrupted):
        train(resumable(tmp_path / "cut", stop_after))
    console._interrupted.clear()
    assert len(tiny.log_lines(tmp_path / "cut/train.jsonl")) == stop_after
    resumed = resumable(tmp_path / "cut")
    train(resumed)
    assert weights(resumed) == weights(uninterrupted)
    assert tiny.log_lines(tmp_path / "cut/train.jsonl") == tiny.log_lines(uninterrupted.folder / "train.jsonl")
    assert [line["step"] for line in tiny.log_lines(tmp_path / "cut/train.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_an_optimiser_of_this_package_resumes(tmp_path, uninterrupted):
    """AdamW with an uncorrected epsilon counts its steps across a stop, and differs from torch's AdamW."""
    settings = {"optimizer": "adamw_uncorrected_epsilon", "trainer_extra": {"adam_epsilon": 1e-3}}
    alone = resumable(tmp_path / "alone", **settings)
    train(alone)
    with pytest.raises(Interrupted):
        train(resumable(tmp_path / "cut", 3, **settings))
    console._interrupted.clear()
    resumed = resumable(tmp_path / "cut", **settings)
    train(resumed)
    assert weights(resumed) == weights(alone) != weights(uninterrupted)


def test_learned_padding_is_trained(tmp_path):
    """Means over unmasked labels of rows padded to 20 tokens, the same for each way of cutting the batch."""
    method, gradients = SimNPO(beta=2.5), []
    for size in (8, 2):
        recorder, plan = Recorder(method), {"device_batch_size": size, "learn_padding": True, "max_length": 20}
        made = job(tmp_path / str(size), method, recorder, plan=plan, learn_padding=True, max_length=20)
        train(made)
        gradients.append(recorder.gradients[0])
    tiny.assert_close(*gradients)
    model, losses = tiny.model(), []
    for name, indices in made.plan.rows_of(0).items():
        for index in indices:
            row = SETS[name][index]
            num_padding = 20 - len(row.ids)
            ids = torch.tensor([[*row.ids, *[0] * num_padding]])
            mask = torch.tensor([[1] * len(row.ids) + [0] * num_padding])
            labels = torch.where(torch.arange(20) < row.answer_start, -100, ids)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            nll = model(input_ids=ids, attention_mask=mask, position_ids=positions, labels=labels).loss
            if name == "forget":
                losses.append(-2 / 2.5 * torch.nn.functional.logsigmoid(2.5 * nll) / 8)
            else:
                tokens = sum(20 - SETS[name][other].answer_start for other in indices)
                losses.append(nll * (20 - row.answer_start) / tokens)
    sum(losses).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    tiny.assert_close(gradients[0], expected)


def test_random_state_matters(tmp_path, uninterrupted):
    """What the resume test rests on: another seed of dropout gives other weights."""
    other = dataclasses.replace(resumable(tmp_path), seed=1)
    train(other)
    assert weights(other) != weights(uninterrupted)


def test_a_half_written_state_is_not_resumed_from(tmp_path, uninterrupted):
    """A state without its marker was cut off while it was written: training goes on from a whole one or starts anew."""
    with pytest.raises(Interrupted):
        train(resumable(tmp_path, 4))
    console._interrupted.clear()
    state = tmp_path / "state/checkpoint-4"
    (state / "complete.json").unlink()
    (state / "optimizer.pt").write_bytes(b"cut")
    resumed = resumable(tmp_path)
    train(resumed)
    assert weights(resumed) == weights(uninterrupted)
    assert tiny.log_lines(tmp_path / "train.jsonl") == tiny.log_lines(uninterrupted.folder / "train.jsonl")


def test_each_epoch_is_measured_once_even_when_interrupted(tmp_path):
    """12 rows at batch 8: passes end after round(1.5) = 2, 3, round(4.5) = 4 and 6 steps; the stop comes at 3, before
    its measurement, which the second call makes up for."""
    measured: list[int] = []

    def with_measure(stop_after: int) -> Job:
        made = resumable(tmp_path, stop_after)
        return dataclasses.replace(made, measure=measured.append, measured=lambda step: step in measured)

    with pytest.raises(Interrupted):
        train(with_measure(3))
    assert measured == [2]
    console._interrupted.clear()
    train(with_measure(0))
    assert measured == [2, 3, 4, 6]


class Broken(Objective):
    """A loss that is NaN from the given step on."""

    def __init__(self, first: int) -> None:
        super().__init__(GradAscent().loss)
        self.first, self.calls = first, 0

    def __call__(self, step: Any) -> Any:
        found = super().__call__(step)
        if self.calls + 1 >= self.first:
            found.terms["forget"] = found.terms["forget"] * torch.nan
        return found

    def after_step(self, terms: dict[str, float]) -> None:
        self.calls += 1


def test_a_loss_that_is_no_number_stops_and_names_its_rows(tmp_path):
    """Steps 1 to 3 are good and saved at every pass (step 2); step 4 stops, and the state of step 3 is there."""
    made = job(
        tmp_path,
        GradAscent(),
        Broken(4),
        plan={"steps": 6, "batch_size": 4, "device_batch_size": 4},
        steps=6,
        batch_size=4,
    )
    with pytest.raises(NumericalError, match="step 4 is not finite") as error:
        train(made)
    rows = [SETS["forget"][row].row for row in made.plan.rows_of(3)["forget"]]
    assert all(row in str(error.value) for row in rows[:4])
    assert "checkpoint-3" in str(error.value)
    assert (tmp_path / "state/checkpoint-3/complete.json").is_file()
    assert all(torch.isfinite(parameter).all() for parameter in made.model.parameters())
    assert rows[0] in (tmp_path / "failed_batch.json").read_text()

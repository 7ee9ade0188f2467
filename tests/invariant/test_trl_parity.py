"""The comparison of DPO with trl: trl's trainer gives equal losses and gradients on equal rows."""

import importlib.util
import operator
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from perf import training
from perf import trl as _trl
from perf.measure import Done
from perf.model import Shape

from expunge.data.templates import Encoded
from expunge.methods.bases.preference import PREFERRED

SHAPE = Shape(num_layers=1, hidden_size=16, intermediate_size=16, num_heads=2, vocab_size=300, max_length=64)


def pairs(num: int = 5) -> dict[str, list[Encoded]]:
    """Forget rows, and per row another answer to its prompt, of another length."""
    forget = tiny.rows(num, seed=1)
    answers = tiny.rows(num, seed=2)
    preferred = [
        Encoded(row.ids[: row.answer_start] + answer.ids[answer.answer_start :], row.answer_start)
        for row, answer in zip(forget, answers, strict=True)
    ]
    return {"forget": forget, PREFERRED: preferred}


def page():
    """The script that writes docs/performance.md."""
    spec = importlib.util.spec_from_file_location(
        "make_performance", Path(__file__).parents[2] / "tools/docs/make_performance.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("precompute", [False, True])
def test_equal_losses_and_gradients(tmp_path, precompute):
    """-mean log sigmoid(beta * margin) on summed log-probabilities, after the model has moved from its start."""
    pytest.importorskip("trl", reason="the extra 'bench' is not installed")
    rows, start, ours, theirs = pairs(), tiny.model(), tiny.model(), tiny.model()
    trainer = _trl.make_trainer(theirs, rows, tmp_path, 5, precompute=precompute, after=lambda: None)
    for name, parameter in ours.named_parameters():
        moved = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.02
        parameter.data.add_(moved)
        theirs.get_parameter(name).data.add_(moved)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(5)])
    loss = trainer.compute_loss(theirs, batch)
    terms = _trl.DPO.objective(1, 1)(tiny.step(ours, rows, start=start))
    assert float(terms.total.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert abs(float(loss.detach()) - 0.6931) > 0.01, "the margin is not 0"
    loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    tiny.assert_close(tiny.gradients(ours, terms), expected, tolerance=3e-5)


def test_a_training_that_fails_ends_the_comparison(monkeypatch, capfd):
    """The training is replaced by a function that a new process imports without torch and that rejects arguments."""
    monkeypatch.setattr(_trl, "run_on_request", operator.index)
    with pytest.raises(SystemExit, match="The training 'ours' failed; its error is printed above"):
        _trl.alternate(("ours",), None, {}, 2, rounds=1)
    assert "TypeError" in capfd.readouterr().err


class FakeConnection:
    """The remote end of a pipe that requests `num` steps and then a stop."""

    def __init__(self, num: int) -> None:
        self.sent: list = []
        self._answers = [True] * num + [False]

    def send(self, item) -> None:
        self.sent.append(item)

    def recv(self) -> bool:
        return self._answers.pop(0)


@pytest.mark.parametrize("side", _trl.SIDES)
def test_a_side_runs_the_requested_steps(side):
    """One message at the first gradient, one per step, and the share of padding."""
    if side != "ours":
        pytest.importorskip("trl", reason="the extra 'bench' is not installed")
    connection = FakeConnection(num=3)
    _trl.run_on_request(connection, side, SHAPE, pairs(), 2)
    *steps, padding = connection.sent
    assert len(steps) == 4
    # Peak bytes are not checked: this process had its peak in other tests, and the kernel's count may fall.
    assert all(seconds > 0 for seconds, _, _ in steps)
    assert 0 <= padding < 1


@pytest.mark.parametrize(("precompute", "per_step"), [(False, 1), (True, 0)])
def test_the_reference_runs_at_every_step_or_never(tmp_path, precompute, per_step):
    """With all five pairs in a batch, precomputing takes one pass; each of three steps then takes another or none."""
    pytest.importorskip("trl", reason="the extra 'bench' is not installed")
    passes, num_steps = [0], [0]

    def after() -> None:
        num_steps[0] += 1
        if num_steps[0] == 3:
            raise Done

    built = tiny.model()
    layer = type(built.get_input_embeddings())
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, output: passes.__setitem__(
            0, passes[0] + (type(module) is layer and not torch.is_grad_enabled())
        )
    )
    try:
        trainer = _trl.make_trainer(built, pairs(), tmp_path, 5, precompute=precompute, after=after)
        before = passes[0]
        with pytest.raises(Done):
            trainer.train()
    finally:
        handle.remove()
    assert before == (1 if precompute else 0)
    assert passes[0] - before == 3 * per_step


def test_sides_are_summarized_without_their_first_steps():
    """Ours: 12 s to the first gradient, a warm-up, then 2 s; theirs 24 s and 5 s, over 4 steps.

    Ratio 5 / 2; with preparation (5 + 24 / 4) / (2 + 12 / 4) = 11 / 5; 100 tokens in 5 s are 20 per second.
    """
    timings = {
        "ours": _trl.Timings([12, 90, 2, 2, 2], [1, 9, 1, 1, 1], peak_bytes=30, padding=0.0),
        "trl": _trl.Timings([24, 80, 4, 5, 6], [1, 9, 3, 3, 3], peak_bytes=60, padding=0.25),
    }
    ours, theirs = _trl.summarize(timings, num_tokens=100, steps=4)
    assert (ours.ratio, ours.ratio_with_preparation, ours.memory_ratio) == (1, 1, 1)
    assert theirs.seconds == 5
    assert theirs.all_seconds == [4, 5, 6]
    assert theirs.ratio == 2.5
    assert theirs.cpu_ratio == 3
    assert theirs.ratio_with_preparation == pytest.approx(11 / 5)
    assert theirs.tokens_per_second == 20
    assert theirs.memory_ratio == 0.5


def test_the_page_has_a_row_per_side():
    """5 s against 2 s, 60 MiB against 30 MiB."""
    timings = {
        "ours": _trl.Timings([12, 90, 2], [1, 9, 1], peak_bytes=30 * 2**20),
        "trl": _trl.Timings([24, 80, 5], [1, 9, 3], peak_bytes=60 * 2**20, padding=0.25),
    }
    record = _trl.TrlSpeed(
        created="",
        trl="1.16.0",
        settings=_trl.DPO.spec(),
        shape={},
        batch_size=8,
        pairs=1,
        steps=4,
        machine={"threads": 2},
        sides=_trl.summarize(timings, num_tokens=100, steps=4),
    )
    lines = page().against_trl(record.model_dump())
    assert "| trl | 5.00 | 2.50x | 3.00x | 24.0 | 2.20x | 20 | 25.0% | 60 | 0.50 |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_a_pair_has_one_prompt():
    rows = {"forget": tiny.rows(2, seed=1), PREFERRED: tiny.rows(2, seed=2)}
    with pytest.raises(ValueError, match="rows/1/0 and its preferred answer do not share a prompt"):
        _trl.pairs_of(rows)


def test_without_trl_the_benchmark_prints_what_to_install(monkeypatch):
    monkeypatch.setattr(_trl.importlib.util, "find_spec", lambda package: None)
    printed = []
    console = SimpleNamespace(print=lambda text, **kwargs: printed.append(text))
    training.against_trl(SimpleNamespace(), SHAPE, {}, console)
    assert printed == [
        "dpo: skipped: the comparison with trl's DPO trainer needs the package 'trl', which is not "
        "installed. Install it with: pip install 'expunge[bench]'"
    ]

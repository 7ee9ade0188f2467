"""Rounding by hand, and an attack that undoes a small change of the weights."""

import copy

import pytest
import torch

from expunge.audits.quantize import _FP4, _NF4, Quantize, round_to_codes, round_to_integers
from expunge.audits.shared.arm import Arm
from expunge.config.recipe import Measure, Scratch
from expunge.data.sets import Row, RowSet, Sets
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.modeling.opening import measuring_template
from expunge.runs.evaluator import Evaluator


def test_int4_by_hand():
    """Largest 7, so the distance of two values is 1; ties round to even."""
    weight = torch.tensor([[7.0, 0.4, -0.6, 2.5, 3.5, -7.0]])
    assert round_to_integers(weight, 4, 128).tolist() == [[7, 0, -1, 2, 4, -7]]


def test_int8_by_hand():
    weight = torch.tensor([[12.7, 0.04, 0.06, -3.14]])
    assert round_to_integers(weight, 8, 128)[0].tolist() == pytest.approx([12.7, 0.0, 0.1, -3.1])


def test_groups_have_their_own_scale():
    """Distances 1 and .01 in groups of 2 inputs; the last group is smaller."""
    weight = torch.tensor([[7.0, 0.6, 0.07, 0.026, 0.5]])
    assert round_to_integers(weight, 4, 2)[0].tolist() == pytest.approx([7, 1, 0.07, 0.03, 0.5])
    assert round_to_integers(weight, 4, 5)[0].tolist() == [7, 1, 0, 0, 0]


def test_rows_have_their_own_scale():
    weight = torch.tensor([[7.0, 0.6], [0.7, 0.06]])
    assert round_to_integers(weight, 4, 2).flatten().tolist() == pytest.approx([7, 1, 0.7, 0.1])


def test_code_books():
    """NF4: quantiles of a normal distribution, with 0 and both ends; FP4: the values of 3 exponent bits and one of
    mantissa, divided by 12: 0, .0625, 2, 3, 4, 6, 8, 12 and their negatives (bitsandbytes, csrc/kernels.cu)."""
    assert len(_NF4) == 16
    assert (_NF4[0], _NF4[7], _NF4[15]) == (-1.0, 0.0, 1.0)
    assert list(_NF4) == sorted(_NF4)
    positive = [value / 12 for value in (0.0625, 2, 3, 4, 6, 8, 12)]
    assert list(_FP4) == pytest.approx([*(-value for value in reversed(positive)), 0.0, *positive])


@pytest.mark.parametrize("codes", [_NF4, _FP4], ids=["nf4", "fp4"])
def test_code_is_the_nearest(codes):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 50, generator=generator)
    book = torch.tensor(codes)
    rounded = round_to_codes(weight, book, block_size=64)
    flat = weight.flatten()
    for start in range(0, 150, 64):
        block = flat[start : start + 64]
        scale = block.abs().max()
        nearest = book[(block[:, None] / scale - book).abs().argmin(dim=1)] * scale
        torch.testing.assert_close(rounded.flatten()[start : start + 64], nearest)


def test_blocks_have_their_own_scale():
    weight = torch.tensor([[1.0, 0.51, 10.0, 5.1]])
    assert round_to_codes(weight, torch.tensor(_FP4), 2)[0].tolist() == pytest.approx([1, 0.5, 10, 5])


def test_zero_weights_stay_zero_and_the_type_is_kept():
    zero = torch.zeros(2, 70, dtype=torch.bfloat16)
    for rounded in (round_to_integers(zero, 4, 128), round_to_codes(zero, torch.tensor(_NF4))):
        assert rounded.dtype == torch.bfloat16
        assert not rounded.any()


ROWS = tuple(Row(str(i), f"Where was number {i} born?", f"In town {i}.", str(i)) for i in range(6))
SETS = Sets("made", RowSet("forget", ROWS), RowSet("retain", ROWS[:2]))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([f"{row.question} {row.answer}" for row in ROWS] * 5, 300, 128)


@pytest.fixture
def arm_of(tokenizer):
    """Factory of arms from models by role."""
    template = measuring_template(tokenizer, None)
    evaluator = Evaluator(SETS, template, Measure(), cache=None, dtype=torch.float32)

    def make(role, models):
        names = {name: name for name in models}
        return Arm(role, names, SETS, template, opener=models.__getitem__, sessions=evaluator.session)

    return make


@pytest.fixture
def target(tokenizer):
    scratch = Scratch(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32, vocab_size=300, max_length=128)
    return build_scratch(scratch, tokenizer, seed=0).eval()


def knows(arm, audit, stage):
    attempt = next(each for each in audit.attack(arm, stage) if each.measure == "probability")
    return sum(row["score"] for row in attempt.rows) / len(attempt.rows), attempt


def test_int4_undoes_a_tiny_change_and_the_fact_predicts_it(target, arm_of):
    """The target has rounded weights, except for the largest of each group. The unlearned model differs by less than
    half the distance of two values in every weight: rounding makes it the target again."""
    audit = Quantize(precisions=["int4"], measures=["probability"])
    for module in target.modules():
        if isinstance(module, torch.nn.Linear) and module is not target.get_output_embeddings():
            module.weight.data = round_to_integers(module.weight.data, 4, 128)
    unlearned = copy.deepcopy(target)
    generator = torch.Generator().manual_seed(1)
    for module in unlearned.modules():
        if isinstance(module, torch.nn.Linear) and module is not unlearned.get_output_embeddings():
            weight = module.weight.data
            largest = weight.abs().amax(dim=1, keepdim=True)
            change = (torch.rand(weight.shape, generator=generator) - 0.5) * 0.9 * largest / 7
            module.weight.data += torch.where(weight.abs() < largest, change, 0.0)
    models = {"unlearned": unlearned, "target": target}
    arm = arm_of("unlearned", models)
    known, _ = knows(arm_of("target", models), audit, "before")
    before, _ = knows(arm, audit, "before")
    after, attempt = knows(arm, audit, "int4")
    assert before != pytest.approx(known, rel=1e-4)
    assert after == pytest.approx(known, rel=1e-5)
    assert attempt.facts["rounded_to_target"] == 1.0


def test_a_large_change_is_not_undone(target, arm_of):
    unlearned = copy.deepcopy(target)
    for module in unlearned.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data.normal_(std=0.1)
    _, attempt = knows(
        arm_of("unlearned", {"unlearned": unlearned, "target": target}), Quantize(precisions=["int8"]), "int8"
    )
    assert attempt.facts["rounded_to_target"] < 0.05


def test_share_of_rounded_weights_on_a_pair_by_hand(arm_of):
    """Four changed weights of eight: 2.4 and 2.2 round to the 2 of the target, 4.4 and -0.6 do not; 3 of 7 is equal."""

    class Pair(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2, bias=False)
            self.layer.weight.data = torch.tensor(weight)

        def get_output_embeddings(self):
            return None

    ours = Pair([[7.0, 2.4, 4.4, 1.0], [7.0, 2.2, -0.6, 3.0]])
    theirs = Pair([[7.0, 2.0, 3.0, 1.0], [7.0, 2.0, 0.0, 3.0]])
    arm = arm_of("unlearned", {"unlearned": ours, "target": theirs})
    audit = Quantize(precisions=["int4"])
    assert audit._overlap(arm, audit._rounding("int4")) == {"rounded_to_target": 0.5}
    assert audit._overlap(arm_of("unlearned", {"unlearned": ours}), audit._rounding("int4")) == {}
    assert audit._overlap(arm_of("target", {"unlearned": ours, "target": theirs}), audit._rounding("int4")) == {}


def test_all_arms_are_rounded_and_weights_return(target, arm_of):
    arm = arm_of("target", {"unlearned": target, "target": target})
    saved = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    before, _ = knows(arm, Quantize(), "before")
    after, attempt = knows(arm, Quantize(), "nf4")
    assert before != after
    assert attempt.utility is not None
    assert attempt.cost.passes == 1
    assert all(torch.equal(tensor, saved[name]) for name, tensor in target.state_dict().items())
    head = target.get_output_embeddings().weight
    with arm.edited(lambda model: None):
        assert torch.equal(head, saved["lm_head.weight"])


def test_stages_and_passes():
    audit = Quantize(precisions=["int8", "nf4"], measures=["probability"])
    assert audit.stages(SETS) == ["before", "int8", "nf4"]
    assert audit.workload(SETS).passes == 3

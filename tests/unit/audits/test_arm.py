"""One model of an audit: edits are undone bit for bit, caches are separate, and copies leave the model unchanged."""

import copy

import pytest
import torch

from expunge.audits.shared.arm import Arm
from expunge.audits.shared.outcomes import measure_rows
from expunge.config.recipe import Measure, Scratch
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import IncompatibleError
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.modeling.opening import measuring_template
from expunge.runs.evaluator import Evaluator

pytestmark = pytest.mark.slow

ROWS = tuple(Row(str(i), f"Where was number {i} born?", f"In town {i}.", str(i)) for i in range(6))
SETS = Sets("made", RowSet("forget", ROWS), RowSet("retain", ROWS[:2]))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([f"{row.question} {row.answer}" for row in ROWS] * 5, 300, 128)


@pytest.fixture
def models(tokenizer):
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=128)
    return {
        role: build_scratch(scratch, tokenizer, seed=seed).eval() for seed, role in enumerate(("unlearned", "target"))
    }


@pytest.fixture
def arm(models, tokenizer, tmp_path):
    template = measuring_template(tokenizer, None)
    evaluator = Evaluator(SETS, template, Measure(), cache=tmp_path, dtype=torch.float32)
    names = {role: role for role in models}
    return Arm("unlearned", names, SETS, template, opener=models.__getitem__, sessions=evaluator.session)


def scores(session):
    return [row["score"] for row in measure_rows(session, ROWS, "probability")]


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_same(model, saved):
    return all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def double(model):
    for parameter in model.parameters():
        parameter.mul_(2)


def test_edited_weights_change_scores_and_return_bit_for_bit(arm):
    saved, before = bits(arm.model), scores(arm.session())
    with arm.edited(double) as session:
        during = scores(session)
        assert not is_same(arm.model, saved)
    assert is_same(arm.model, saved)
    assert during != before
    assert scores(arm.session()) == before


def test_weights_return_after_an_error(arm):
    saved = bits(arm.model)
    with pytest.raises(RuntimeError, match="inside"), arm.edited(double):
        raise RuntimeError("inside")

    def broken(model):
        double(model)
        raise RuntimeError("in the edit")

    with pytest.raises(RuntimeError, match="in the edit"), arm.edited(broken):
        pass
    assert is_same(arm.model, saved)


def test_two_edits_do_not_share_a_cache(arm):
    """Both sessions read and write the same folder; the weights are in the key."""
    with arm.edited(double) as session:
        doubled = scores(session)
    with arm.edited(lambda model: [parameter.mul_(3) for parameter in model.parameters()]) as session:
        assert scores(session) != doubled
    with arm.edited(double) as session:
        assert scores(session) == doubled


def test_hooked_model_does_not_read_the_cache_of_the_unhooked_one(arm):
    before = scores(arm.session())
    layer = arm.model.get_input_embeddings()
    handle = layer.register_forward_hook(lambda module, inputs, output: -output)
    try:
        assert scores(arm.session()) == before  # the cache of the unhooked model
        hooked = scores(arm.hooked_session({"name": "negate"}))
        assert hooked != before
        assert scores(arm.hooked_session({"name": "negate"})) == hooked
    finally:
        handle.remove()
    # The cache of the hooked model, and the attack with another setting, which is computed again.
    assert scores(arm.hooked_session({"name": "negate"})) == hooked
    assert scores(arm.hooked_session({"name": "negate", "strength": 0})) == before
    with pytest.raises(ValueError, match="identity"):
        arm.hooked_session(None)


def test_training_a_copy_leaves_the_model_unchanged(arm):
    saved, before = bits(arm.model), scores(arm.session())
    with arm.trainable_copy() as trained:
        assert trained.training
        assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in trained.parameters())
        optimizer = torch.optim.SGD(trained.parameters(), lr=1.0)
        trained(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
        optimizer.step()
        assert not is_same(trained, saved)
        assert scores(arm.session_with(trained.eval())) != before
    assert is_same(arm.model, saved)
    assert not arm.model.training
    assert all(parameter.grad is None for parameter in arm.model.parameters())


def test_copy_of_half_precision_weights_is_float32(arm, models):
    models["unlearned"].to(torch.bfloat16)
    with arm.trainable_copy() as trained:
        assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in arm.model.parameters()} == {torch.bfloat16}


def test_adapter_is_merged_before_an_edit(arm, models):
    """The merged model computes what the adapter did, and an edit sees the sum of weight and adapter."""
    from peft import LoraConfig, get_peft_model

    plain = copy.deepcopy(models["unlearned"])
    adapted = get_peft_model(models["unlearned"], LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    models["unlearned"] = adapted.eval()
    with_adapter = scores(arm.session())
    name = "model.layers.0.self_attn.q_proj.weight"
    seen = {}
    with arm.edited(lambda model: seen.update(weight=model.state_dict()[name].clone())) as session:
        assert scores(session) == pytest.approx(with_adapter, rel=1e-4)
    assert not torch.equal(seen["weight"], plain.state_dict()[name])
    assert scores(arm.session()) == pytest.approx(with_adapter, rel=1e-4)


def test_other_arm_is_released_and_a_missing_one_has_a_reason(arm, models):
    with arm.other("target") as target:
        assert target.model is models["target"]
        assert target.label == "the target"
    assert target._model is None
    with pytest.raises(IncompatibleError, match="needs the retain model") as raised, arm.other("retain"):
        pass
    assert "--retain-model FOLDER" in str(raised.value)


def test_utility_is_the_mean_probability_of_retain_answers(arm):
    assert arm.utility() == pytest.approx(sum(scores(arm.session())[:2]) / 2)
    with arm.edited(double) as session:
        assert arm.utility(session) == pytest.approx(sum(scores(session)[:2]) / 2)
    arm.sets = Sets("made", SETS.forget, None)
    assert arm.utility() is None

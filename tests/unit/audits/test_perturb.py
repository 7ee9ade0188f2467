"""Changes of weights: their closed forms, restored weights, and parts that need a target or retain rows."""

import copy

import pytest
import torch
from pydantic import ValidationError
from tiny_arms import make_arm, make_model, make_sets, make_tokenizer
from transformers.pytorch_utils import Conv1D

from expunge.audits.perturb import (
    Perturb,
    add_noise,
    input_norms,
    interpolate,
    prune,
    relative_distance,
    same_shapes,
)
from expunge.audits.shared.findings import Rule
from expunge.audits.shared.linear_layers import linear_layers, weight_of
from expunge.data.templates import Encoded


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def model(tokenizer):
    return make_model(tokenizer, 0)


class OneLayer(torch.nn.Module):
    """A model with one linear layer beside its head."""

    def __init__(self, weight):
        super().__init__()
        self.layer = torch.nn.Linear(*weight.T.shape, bias=False)
        self.head = torch.nn.Linear(2, 2)
        self.layer.weight.data.copy_(weight)

    def get_output_embeddings(self):
        return self.head


def bytes_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_weights(model, saved):
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_noise_is_relative_to_each_tensor(model):
    """std(W' - W) = sigma std(W): within 4 standard errors, 4 / sqrt(2 n), of a sample of n values."""
    saved = bytes_of(model)
    model.model.layers[0].mlp.up_proj.weight.data.mul_(100)
    before = copy.deepcopy(model)
    add_noise(model, 0.1, seed=3)
    for name in ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.gate_proj", "model.embed_tokens"):
        old, new = (each.get_submodule(name).weight.detach() for each in (before, model))
        assert (new - old).std() / old.std() == pytest.approx(0.1, rel=4 / (2 * old.numel()) ** 0.5)
    norm = "model.norm.weight"
    assert torch.equal(model.state_dict()[norm], saved[norm]), "a constant tensor has no spread, so it gets no noise"


def test_noise_depends_on_the_seed_alone(model):
    same, other = copy.deepcopy(model), copy.deepcopy(model)
    for each, seed in ((model, 1), (same, 1), (other, 2)):
        add_noise(each, 0.1, seed)
    assert_equal_weights(same, model.state_dict())
    assert not torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_magnitude_and_rows_by_hand():
    """Half of the 6 weights of smallest size in the matrix; then one of 3 in each row."""
    weight = torch.tensor([[0.1, -0.2, 3.0], [1.0, -0.3, 2.0]])
    model = OneLayer(weight)
    prune(model, 0.5, lambda name, weight: weight.abs().flatten()[None])
    assert model.layer.weight.tolist() == [[0.0, 0.0, 3.0], [1.0, 0.0, 2.0]]
    model = OneLayer(weight)
    head = model.head.weight.detach().clone()
    prune(model, 1 / 3, lambda name, weight: weight.abs())
    assert torch.equal(model.layer.weight, torch.tensor([[0.0, -0.2, 3.0], [1.0, 0.0, 2.0]]))
    assert torch.equal(model.head.weight, head), "the output head stays"


def test_transposed_layers_of_gpt2_are_pruned_by_output():
    model = OneLayer(torch.ones(2, 3))
    model.layer = Conv1D(2, 3)
    with torch.no_grad():
        model.layer.weight.copy_(torch.tensor([[0.1, -0.2, 3.0], [1.0, -0.3, 2.0]]).T)
    prune(model, 1 / 3, lambda name, weight: weight.abs())
    assert torch.equal(model.layer.weight.T, torch.tensor([[0.0, -0.2, 3.0], [1.0, 0.0, 2.0]]))


def test_norms_are_those_of_the_layer_inputs(model):
    """||X_j||_2 over the tokens of two rows of different lengths, from the embeddings after the first norm."""
    rows = [Encoded((5, 9, 7, 30), 1), Encoded((11, 4), 1)]
    norms = input_norms(model, rows)
    layer = model.model.layers[0]
    with torch.no_grad():
        inputs = [layer.input_layernorm(model.model.embed_tokens(torch.tensor(row.ids))) for row in rows]
    expected = torch.cat(inputs).square().sum(0).sqrt()
    assert torch.allclose(norms["model.layers.0.self_attn.q_proj"], expected, rtol=1e-5)
    assert set(norms) == set(linear_layers(model))
    assert "lm_head" not in norms


def test_wanda_scores_by_hand():
    """|W| ||X||: the weight 0.5 with inputs of norm 4 outranks the weight 1 with inputs of norm 1."""
    model = OneLayer(torch.tensor([[0.5, 1.0], [0.1, 1.0]]))
    norms = {"layer": torch.tensor([4.0, 1.0])}
    prune(model, 0.5, lambda name, weight: weight.abs() * norms[name])
    assert torch.equal(model.layer.weight, torch.tensor([[0.5, 0.0], [0.0, 1.0]]))


def test_interpolation_ends_at_both_models(tokenizer, model):
    target = make_model(tokenizer, 1)
    at_zero, at_one, half = (copy.deepcopy(target) for _ in range(3))
    for mixed, alpha in ((at_zero, 0.0), (at_one, 1.0), (half, 0.5)):
        interpolate(model, mixed, alpha)
    assert_equal_weights(at_zero, model.state_dict())
    assert_equal_weights(at_one, target.state_dict())
    expected = (model.lm_head.weight + target.lm_head.weight) / 2
    assert torch.allclose(half.lm_head.weight, expected, atol=1e-6)


def test_distance_by_hand(model):
    """All weights times 1.5: ||0.5 t|| / ||t|| = 0.5."""
    scaled = copy.deepcopy(model)
    for parameter in scaled.parameters():
        parameter.data.mul_(1.5)
    assert relative_distance(scaled, model) == pytest.approx(0.5, rel=1e-5)
    assert relative_distance(model, model) == 0.0


@pytest.fixture
def models(tokenizer):
    seeds = {"unlearned": 0, "target": 1, "retain": 2}
    return {role: lambda seed=seed: make_model(tokenizer, seed) for role, seed in seeds.items()}


def run(audit, role, models, tokenizer, sets=None, cache=None):
    arm = make_arm(role, models, sets or make_sets(), tokenizer, cache)
    found = {}
    for stage in audit.stages(arm.sets):
        saved = bytes_of(arm.model)
        for attempt in audit.attack(arm, stage):
            found[attempt.name] = attempt
        assert_equal_weights(arm.model, saved)
    return found


SMALL = Perturb(sigmas=[0.3], sparsities=[0.5], alphas=[0.5])


def scores(attempt):
    return [row["score"] for row in attempt.rows]


def test_every_change_changes_the_scores_and_is_undone(models, tokenizer, tmp_path):
    """Also with a cache of results on disk, which must not give one change the scores of another."""
    found = run(SMALL, "unlearned", models, tokenizer, cache=tmp_path)
    assert list(found) == ["before", "noise 0.3", "magnitude 0.5", "wanda 0.5", "random 0.5", "interpolation 0.5"]
    assert len({tuple(scores(attempt)) for attempt in found.values()}) == len(found)
    assert len({attempt.utility for attempt in found.values()}) == len(found)
    counted = {name for name, attempt in found.items() if not attempt.not_counted}
    assert counted == {"before", "noise 0.3", "magnitude 0.5", "wanda 0.5"}
    expected = relative_distance(models["unlearned"](), models["target"]())
    assert found["before"].facts == {"distance_to_target": pytest.approx(expected)}
    again = run(SMALL, "unlearned", models, tokenizer, cache=tmp_path)
    assert all(scores(again[name]) == scores(found[name]) for name in found)


@pytest.mark.parametrize("kind", ["noise", "magnitude", "wanda"])
def test_stage_is_the_named_change(models, tokenizer, kind):
    """The scores of a stage are those of a model that was changed by hand, with the formula of its docstring."""
    sets, changed = make_sets(), models["unlearned"]()
    encode = make_arm("unlearned", models, sets, tokenizer).template.encode
    norms = input_norms(changed, [encode(row.question, row.answer) for row in sets.retain])
    if kind == "noise":
        add_noise(changed, 0.5, seed=0)
    elif kind == "magnitude":
        prune(changed, 0.5, lambda name, weight: weight.abs().flatten()[None])
    else:
        prune(changed, 0.5, lambda name, weight: weight.abs() * norms[name])
    by_hand = run(Perturb(sigmas=[1.0]), "unlearned", {"unlearned": lambda: changed}, tokenizer)["before"]
    found = run(Perturb(sigmas=[0.5], sparsities=[0.5]), "unlearned", models, tokenizer)[f"{kind} 0.5"]
    assert scores(found) == pytest.approx(scores(by_hand))
    assert found.utility == pytest.approx(by_hand.utility)


def test_interpolation_mixes_the_retain_model_and_leaves_the_target(models, tokenizer):
    mixed = models["target"]()
    interpolate(models["retain"](), mixed, 0.5)
    direct = run(
        Perturb(sigmas=[], sparsities=[], alphas=[0.5]), "retain", {**models, "retain": lambda: mixed}, tokenizer
    )
    found = run(SMALL, "retain", models, tokenizer)
    assert scores(found["interpolation 0.5"]) == pytest.approx(scores(direct["before"]))
    target = run(SMALL, "target", models, tokenizer)
    assert scores(target["interpolation 0.5"]) == scores(target["before"])


def test_wanda_reads_retain_rows_and_no_forget_rows(models, tokenizer, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "expunge.audits.perturb.input_norms", lambda model, rows: seen.extend(rows) or input_norms(model, rows)
    )
    run(Perturb(sigmas=[], sparsities=[0.5], alphas=[], calibration_rows=3), "unlearned", models, tokenizer)
    assert len(seen) == 3
    assert all(row.row.startswith("retain/") for row in seen)


def test_missing_parts_give_a_reason(models, tokenizer):
    models = {role: models[role] for role in ("unlearned", "retain")}
    sets = make_sets(retain=False)
    found = {role: list(run(SMALL, role, models, tokenizer, sets).values()) for role in models}
    assert [attempt.name for attempt in found["unlearned"]] == ["before", "noise 0.3", "magnitude 0.5", "random 0.5"]
    notes = SMALL.findings(found, Rule()).notes
    assert any("Wanda pruning was not run: it needs retain rows" in note for note in notes)
    assert any("Interpolation was not run" in note and "--target" in note for note in notes)


def test_target_of_another_shape(models, tokenizer):
    models["target"] = lambda: make_model(tokenizer, 1, layers=1)
    assert not same_shapes(models["unlearned"](), models["target"]())
    found = run(SMALL, "unlearned", models, tokenizer)
    assert "interpolation 0.5" not in found
    assert found["before"].facts == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigmas": [0.0]}, "sigmas: .* must be above 0"),
        ({"sparsities": [1.0]}, "sparsities: .* between 0 and 1"),
        ({"alphas": [0.5, 0.5]}, "names a value twice"),
        ({"sigmas": [], "sparsities": [], "alphas": []}, "nothing is attacked"),
        ({"sparsities": [], "calibration_rows": 5}, "calibration_rows has no effect"),
    ],
)
def test_settings_without_effect_or_sense(settings, message):
    with pytest.raises(ValidationError, match=message):
        Perturb(**settings)


def test_weight_of_is_a_view(model):
    layer = model.model.layers[0].mlp.up_proj
    weight_of(layer)[0, 0] = 7.0
    assert layer.weight[0, 0] == 7.0

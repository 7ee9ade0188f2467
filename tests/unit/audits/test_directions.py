"""Directions: a planted one is found and its ablation undoes it, and random ones do not."""

import numpy as np
import pytest
import torch
from tiny_arms import make_arm, make_model, make_sets, make_tokenizer, without_groups

from expunge.audits.directions import Directions, ablate, prompt_states, unit
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


PLANTED = unit(torch.randn(16, generator=torch.Generator().manual_seed(7)))


def target_of(tokenizer):
    """A model that answers 'In Bern.' and so on with some probability, and does not use the planted direction.

    The direction is projected out of everything that the second layer adds to, so ablating it there loses nothing.
    """
    model = make_model(tokenizer, 1)
    projection = torch.eye(16) - torch.outer(PLANTED, PLANTED)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding.copy_(embedding @ projection)
        for layer in model.model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.copy_(projection @ linear.weight)
    return model


def planted_of(tokenizer, size=30.0):
    """The target with a long vector added to the output of layer 0 at every token, like a model that was steered."""
    model = target_of(tokenizer)
    model.model.layers[0].register_forward_hook(lambda module, args, output: output + size * PLANTED)
    return model


def models_of(tokenizer):
    return {"unlearned": lambda: planted_of(tokenizer), "target": lambda: target_of(tokenizer)}


def scores(attempt):
    return np.array([row["score"] for row in attempt.rows])


def test_planted_direction_is_found_and_undone(tokenizer):
    arms = {role: make_arm(role, models_of(tokenizer), make_sets(), tokenizer) for role in ("unlearned", "target")}
    audit = Directions(layers=[0], controls=3)
    found = {
        role: {a.name: a for s in audit.stages(arm.sets) for a in audit.attack(arm, s)} for role, arm in arms.items()
    }
    knows, hidden = scores(found["target"]["before"]), scores(found["unlearned"]["before"])
    ablated, random = scores(found["unlearned"]["ablation"]), scores(found["unlearned"]["random directions"])
    assert np.abs(hidden - knows).mean() > 10 * np.abs(ablated - knows).mean(), "the planted vector hid the answers"
    assert ablated == pytest.approx(knows, rel=1e-3)
    assert np.abs(random - knows).mean() > 10 * np.abs(ablated - knows).mean()
    assert scores(found["target"]["ablation"]) == pytest.approx(knows, rel=1e-6), "nothing separates it from itself"
    assert found["unlearned"]["random directions"].not_counted
    facts = found["unlearned"]["ablation"].facts
    assert facts["random_mean"] == pytest.approx(random.mean())
    assert facts["random_max"] >= facts["random_mean"]


def test_directions_come_from_the_other_people(tokenizer, monkeypatch):
    """Hidden states of one fold are replaced by zeros: only the scores of the other fold change."""
    arm = make_arm("unlearned", models_of(tokenizer), make_sets(2), tokenizer)
    audit = Directions(layers=[0], controls=1)
    plain = scores(audit.attack(arm, "ablation")[0])
    moved = Directions._moved

    def cut(self, arm, rows):
        states = moved(self, arm, rows)
        states[:3] = 0  # the rows of the first person
        return states

    monkeypatch.setattr(Directions, "_moved", cut)
    changed = scores(audit.attack(arm, "ablation")[0])
    assert changed[:3] == pytest.approx(plain[:3], rel=1e-6)
    before = scores(audit.attack(arm, "before")[0])
    assert changed[3:] == pytest.approx(before[3:], rel=1e-6)
    assert np.abs(changed[3:] - plain[3:]).max() > 1e-3


def test_ablation_removes_the_direction_at_every_token(tokenizer):
    model = planted_of(tokenizer)
    outputs = []
    directions = torch.stack([PLANTED, torch.zeros(16)])
    ids = torch.tensor([[5, 9, 7]])
    with torch.no_grad(), ablate(model, directions, [0, 1]):
        hook = model.model.layers[0].register_forward_hook(lambda module, args, output: outputs.append(output))
        model(ids)
        hook.remove()
    assert (outputs[0] @ PLANTED).abs().max() < 1e-4
    with torch.no_grad():
        hook = model.model.layers[0].register_forward_hook(lambda module, args, output: outputs.append(output))
        model(ids)
        hook.remove()
    assert (outputs[1] @ PLANTED).min() > 20, "the hooks are gone"


def test_states_are_those_of_the_last_prompt_token(tokenizer):
    model = make_model(tokenizer, 3)
    states = prompt_states(model, [[5, 9, 7], [11, 4], list(range(5, 30))], context=10)
    with torch.no_grad():
        expected = [model(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in ([5, 9, 7], [11, 4])]
    assert torch.allclose(states[0, 0], expected[0][1][0, -1], atol=1e-6)
    assert torch.allclose(states[1, 0], expected[1][1][0, -1], atol=1e-6)
    assert states[2].isnan().all()


def test_data_without_folds_or_questions():
    with pytest.raises(DataError, match="only one person"):
        Directions().stages(Sets("made", without_groups(make_sets().forget), None))
    with pytest.raises(DataError, match="has no questions"):
        Directions().stages(Sets("made", RowSet("forget", (Row("0", "", "Some text.", "g"),)), None))

"""Hidden states of all layers: read, replaced and normed alike in every architecture."""

import pytest
import tiny
import torch

from expunge.errors import IncompatibleError
from expunge.modeling.forward import decode, head_of
from expunge.modeling.hidden.trace import final_states, layer_list, normed_states, replace_states, states_at

ITEMS = tiny.rows(3)


@pytest.fixture(params=tiny.ARCHITECTURES)
def built(request):
    return tiny.model(request.param)


def all_positions(batch):
    rows, positions = torch.nonzero(batch.attention_mask, as_tuple=True)
    return rows, positions


@torch.no_grad()
def test_states_are_those_of_the_model(built):
    """transformers' own hidden_states: the embeddings, then each layer; the last one is already normed."""
    batch = tiny.batch(ITEMS)
    rows, positions = all_positions(batch)
    states = states_at(built, batch, rows, positions)
    expected = built.base_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
    ).hidden_states
    assert len(states.layers) == len(layer_list(built)[1])
    torch.testing.assert_close(states.layers[0], expected[1][rows, positions])
    torch.testing.assert_close(states.final, expected[-1][rows, positions])
    torch.testing.assert_close(states.final, decode(built, batch)[rows, positions])


@torch.no_grad()
def test_last_layer_normed_is_the_final_state(built):
    batch = tiny.batch(ITEMS)
    rows, positions = all_positions(batch)
    states = states_at(built, batch, rows, positions)
    normed = normed_states(built, batch, rows, positions, states.layers[-1])
    torch.testing.assert_close(normed, states.final)
    assert not torch.allclose(states.layers[-1], states.final, atol=1e-2)
    assert len(layer_list(built)[1]) == 2  # the decoder has all its layers again


@torch.no_grad()
def test_own_states_change_nothing(built):
    """Exactly, so that a model that equals the target has a depth score of exactly 0."""
    batch = tiny.batch(ITEMS)
    states = states_at(built, batch, batch.rows, batch.positions)
    for layer in range(2):
        with replace_states(built, layer, batch.rows, batch.positions, states.layers[layer]):
            final = final_states(built, batch)[batch.rows, batch.positions]
        assert torch.equal(final, states.final)
    assert not any(layer._forward_hooks for layer in layer_list(built)[1])


@torch.no_grad()
@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_another_models_states_at_all_positions_give_its_logits(built, layers):
    """With the same norm and head, all of a source's last states are all that its predictions depend on."""
    source = tiny.model(built.config.model_type, seed=1)
    layer_names = f"{layer_list(source)[0]}."
    source.load_state_dict(
        {name: tensor for name, tensor in built.state_dict().items() if not name.startswith(layer_names)}, strict=False
    )
    batch = tiny.batch(ITEMS)
    rows, positions = all_positions(batch)
    states = states_at(source, batch, rows, positions)
    with replace_states(built, layers[-1], rows, positions, states.layers[layers[-1]]):
        if len(layers) == 2:
            with replace_states(built, 0, rows, positions, states.layers[0]):
                final = final_states(built, batch)
        else:
            final = final_states(built, batch)
    torch.testing.assert_close(head_of(built)(final[rows, positions]), head_of(source)(states.final))
    own = head_of(built)(decode(built, batch)[rows, positions])
    assert not torch.allclose(own, head_of(source)(states.final), atol=0.1)


@torch.no_grad()
def test_only_later_tokens_see_replaced_states():
    built, batch = tiny.model("llama"), tiny.batch(tiny.rows(1, shortest=10, longest=10))
    plain = final_states(built, batch)[0]
    row, position = torch.tensor([0]), torch.tensor([4])
    with replace_states(built, 0, row, position, torch.ones(1, 24)):
        changed = (final_states(built, batch)[0] - plain).abs().amax(-1) > 1e-6
    assert changed.tolist() == [index >= 4 for index in range(10)]


def test_model_without_a_separate_head_is_refused():
    from expunge.modeling.forward import OutputPath

    built = tiny.model("llama")
    vars(built)["_output_path"] = OutputPath("logits", positions=True)
    with pytest.raises(IncompatibleError, match="LlamaForCausalLM does not separate its decoder"):
        states_at(built, tiny.batch(ITEMS), torch.tensor([0]), torch.tensor([0]))

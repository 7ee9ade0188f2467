"""Rows without padding: several in one, each computed as if it stood alone."""

import numpy as np
import pytest
import tiny
import torch
import transformers

from expunge.methods.base import Method, Start
from expunge.methods.graddiff import GradDiff
from expunge.methods.gru import GRU
from expunge.methods.rmu import RMU
from expunge.methods.rmulat import RMULAT
from expunge.methods.undial import UNDIAL
from expunge.modeling.capabilities import can_pack
from expunge.modeling.forward import decode
from expunge.modeling.packing import choose_bins, pack
from expunge.modeling.step import LossTerms, Step
from expunge.training.trainer import train

SETS = {"forget": tiny.rows(5, seed=1), "retain": tiny.rows(4, seed=2, longest=9)}


def step(model, sets=SETS, *, packed: bool, start=None, side: str = "right") -> Step:
    made = tiny.step(model, sets, start=start, side=side)
    made.packed = packed
    return made


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_hidden_states_and_gradients(architecture, side):
    """Packed rows against padded ones, in every real position and every gradient; fewer tokens are run."""
    model, batch = tiny.model(architecture), tiny.batch(SETS["forget"], side)
    real = batch.attention_mask.bool()
    padded, packed = (decode(model, batch, way)[real] for way in (False, True))
    torch.testing.assert_close(packed, padded, rtol=0, atol=2e-5)
    sizes: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda layer, args, out: sizes.append(args[0].numel()))
    found = [
        tiny.gradients(model, LossTerms({name: made.nll(name) for name in SETS}))
        for made in (step(model, packed=way, side=side) for way in (False, True))
    ]
    tiny.assert_close(*found)
    assert sizes[1] < sizes[0]


def test_every_token_has_one_place():
    """The packed rows hold each real token once, with its position in its row, and the way back is the inverse."""
    model, batch = tiny.model(), tiny.batch(tiny.rows(9, seed=5), "left")
    packing = pack(batch.spans, batch.input_ids.shape[1], model)
    real = batch.attention_mask.flatten().nonzero().flatten()
    places = packing.back[real]
    assert len(set(places.tolist())) == len(real)
    assert torch.equal(packing.source.flatten()[places], real)
    expected = (batch.attention_mask.cumsum(1) - 1).flatten()[real]
    assert torch.equal(packing.position_ids.flatten()[places], expected)
    ids = packing.pack(batch.input_ids)
    assert torch.equal(
        packing.unpack(ids[..., None]).squeeze(-1)[batch.attention_mask.bool()],
        batch.input_ids[batch.attention_mask.bool()],
    )


def test_padding_is_a_few_percent():
    """16 rows of 40 to 110 tokens, as questions and answers are: padded to the longest about 30 %, packed under 4."""
    rng = np.random.default_rng(0)
    before, after = [], []
    for _ in range(50):
        lengths = rng.integers(40, 111, size=16).tolist()
        bins = choose_bins(lengths, 512)
        width = max(sum(lengths[row] for row in members) for members in bins)
        assert sorted(row for members in bins for row in members) == list(range(16))
        before.append(1 - sum(lengths) / (16 * max(lengths)))
        after.append(1 - sum(lengths) / (len(bins) * width))
    assert np.mean(before) > 0.25
    assert np.mean(after) < 0.04


def test_rows_of_one_length_stay_as_they_are():
    """Packing rows of equal length would only make the attention wider."""
    assert choose_bins([20] * 8, 512) == [[row] for row in range(8)]
    model = tiny.model()
    assert pack([(0, 9)] * 4, 9, model) is None


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_usual_decoders_can_be_packed(architecture):
    assert can_pack(tiny.model(architecture))


@pytest.mark.parametrize("architecture", ["bloom", "mamba"])
def test_decoders_that_cannot_are_found_out(tmp_path, architecture):
    """Bloom's positions come from the mask, Mamba's state runs through everything before: both are padded instead."""
    config = transformers.AutoConfig.for_model(
        architecture, vocab_size=tiny.VOCAB, hidden_size=24, num_hidden_layers=2, n_head=4, state_size=4
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.training
    assert not can_pack(model)
    assert model.training


@pytest.mark.parametrize(
    "method",
    [
        GradDiff(retain="kl"),
        GradDiff(retain="kl", kl_positions="all"),
        UNDIAL(retain_weight=1.0),
        UNDIAL(retain_weight=1.0, positions="all"),
    ],
    ids=repr,
)
def test_losses_with_a_reference(method):
    """Those that count padding are given it, whatever the step was told."""
    start, model = tiny.model(seed=0), tiny.model(seed=1)
    padded, packed = (method.loss(step(model, packed=way, start=start)) for way in (False, True))
    for name, value in padded.terms.items():
        torch.testing.assert_close(packed.terms[name], value, rtol=1e-5, atol=0)
    tiny.assert_close(tiny.gradients(model, padded), tiny.gradients(model, packed))


@pytest.mark.parametrize("positions", ["labels", "all"])
@pytest.mark.parametrize("kind", [RMU, RMULAT])
def test_steered_layers(kind, positions):
    """Hidden states of the trained and the frozen layers, and what an attacker adds to them."""
    method: Method = kind(layer=1, update_layers=[0, 1], positions=positions, c=[2.0], alpha=[3.0])
    found = []
    for way in (False, True):
        model = tiny.model()
        chosen = set(method.trainable(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
        objective = method.objective(1, 1)
        objective.start(Start(model, ("",), 0, lambda name, index: tiny.batch(SETS[name])))
        for name in chosen:
            model.get_parameter(name).data.mul_(1.1)
        terms = objective(step(model, packed=way))
        found.append((terms, tiny.gradients(model, terms)))
    for name, value in found[0][0].terms.items():
        torch.testing.assert_close(found[1][0].terms[name], value, rtol=1e-5, atol=0)
    tiny.assert_close(found[0][1], found[1][1])


def test_separate_passes_are_packed_too():
    """GRU runs forget and retain apart, for two gradients."""
    model, sizes = tiny.model(), []
    model.get_input_embeddings().register_forward_hook(lambda layer, args, out: sizes.append(args[0].numel()))
    objective = GRU().objective(1, 1)
    totals = []
    for way in (False, True):
        totals.append(float(objective(step(model, packed=way)).total.detach()))
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)
    assert sum(sizes[2:]) < sum(sizes[:2])


def test_the_trainer_packs(tmp_path):
    """Every token of a step is run once, and few others."""
    import test_training

    made = test_training.job(tmp_path, GradDiff(), test_training.Recorder(GradDiff()))
    sizes: list[int] = []
    made.model.get_input_embeddings().register_forward_hook(lambda layer, args, out: sizes.append(args[0].numel()))
    train(made)
    for index, run in enumerate(sizes[-2:]):
        batches = made.plan[index]["batches"].values()
        real = sum(int(batch.attention_mask.sum()) for batch in batches)
        assert real <= run < 1.2 * real

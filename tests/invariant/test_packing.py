"""Packed rows give the same results as padded ones."""

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
    result = tiny.step(model, sets, start=start, side=side)
    result.packed = packed
    return result


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_hidden_states_and_gradients(architecture, side):
    """Compare packed with padded rows at all real positions, and their gradients; packing runs fewer tokens."""
    model, batch = tiny.model(architecture), tiny.batch(SETS["forget"], side)
    real = batch.attention_mask.bool()
    padded, packed = (decode(model, batch, packed)[real] for packed in (False, True))
    torch.testing.assert_close(packed, padded, rtol=0, atol=2e-5)
    sizes: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda layer, args, out: sizes.append(args[0].numel()))
    steps = [step(model, packed=packed, side=side) for packed in (False, True)]
    gradients = [tiny.gradients(model, LossTerms({name: current.nll(name) for name in SETS})) for current in steps]
    tiny.assert_close(*gradients)
    assert sizes[1] < sizes[0]


def test_index_maps_are_inverse():
    """Packed rows contain each real token once, with its position in its row, and `unpack` inverts `pack`."""
    model, batch = tiny.model(), tiny.batch(tiny.rows(9, seed=5), "left")
    packing = pack(batch.spans, batch.input_ids.shape[1], model)
    real = batch.attention_mask.flatten().nonzero().flatten()
    indices = packing.back[real]
    assert len(set(indices.tolist())) == len(real)
    assert torch.equal(packing.source.flatten()[indices], real)
    expected = (batch.attention_mask.cumsum(1) - 1).flatten()[real]
    assert torch.equal(packing.position_ids.flatten()[indices], expected)
    ids = packing.pack(batch.input_ids)
    assert torch.equal(
        packing.unpack(ids[..., None]).squeeze(-1)[batch.attention_mask.bool()],
        batch.input_ids[batch.attention_mask.bool()],
    )


def test_padding_is_a_few_percent():
    """16 rows of 40 to 110 tokens, typical of questions and answers: about 30 % padding, packed less than 4 %."""
    rng = np.random.default_rng(0)
    padded, packed = [], []
    for _ in range(50):
        lengths = rng.integers(40, 111, size=16).tolist()
        bins = choose_bins(lengths, 512)
        width = max(sum(lengths[row] for row in members) for members in bins)
        assert sorted(row for members in bins for row in members) == list(range(16))
        padded.append(1 - sum(lengths) / (16 * max(lengths)))
        packed.append(1 - sum(lengths) / (len(bins) * width))
    assert np.mean(padded) > 0.25
    assert np.mean(packed) < 0.04


def test_rows_of_equal_length_are_not_packed():
    """Packing them would only widen the attention."""
    assert choose_bins([20] * 8, 512) == [[row] for row in range(8)]
    model = tiny.model()
    assert pack([(0, 9)] * 4, 9, model) is None


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_common_architectures_can_be_packed(architecture):
    assert can_pack(tiny.model(architecture))


@pytest.mark.parametrize("architecture", ["bloom", "mamba"])
def test_architectures_that_cannot_be_packed(tmp_path, architecture):
    """Bloom derives positions from the mask, and Mamba's state crosses row boundaries."""
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
    """Losses that use padding get it, even from a step that packs."""
    start, model = tiny.model(seed=0), tiny.model(seed=1)
    padded, packed = (method.loss(step(model, packed=value, start=start)) for value in (False, True))
    for name, value in padded.terms.items():
        torch.testing.assert_close(packed.terms[name], value, rtol=1e-5, atol=0)
    tiny.assert_close(tiny.gradients(model, padded), tiny.gradients(model, packed))


@pytest.mark.parametrize("positions", ["labels", "all"])
@pytest.mark.parametrize("kind", [RMU, RMULAT])
def test_steered_layers(kind, positions):
    """Hidden states of the trained and the frozen layers, with and without an attacker's perturbation."""
    method: Method = kind(layer=1, update_layers=[0, 1], positions=positions, c=[2.0], alpha=[3.0])
    results = []
    for packed in (False, True):
        model = tiny.model()
        trained = set(method.trainable(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        objective = method.objective(1, 1)
        objective.start(Start(model, ("",), 0, lambda name, index: tiny.batch(SETS[name])))
        for name in trained:
            model.get_parameter(name).data.mul_(1.1)
        terms = objective(step(model, packed=packed))
        results.append((terms, tiny.gradients(model, terms)))
    for name, value in results[0][0].terms.items():
        torch.testing.assert_close(results[1][0].terms[name], value, rtol=1e-5, atol=0)
    tiny.assert_close(results[0][1], results[1][1])


def test_separate_passes_are_packed_too():
    """GRU runs the forget and the retain set separately, for two gradients."""
    model, sizes = tiny.model(), []
    model.get_input_embeddings().register_forward_hook(lambda layer, args, out: sizes.append(args[0].numel()))
    objective = GRU().objective(1, 1)
    totals = []
    for packed in (False, True):
        totals.append(float(objective(step(model, packed=packed)).total.detach()))
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)
    assert sum(sizes[2:]) < sum(sizes[:2])


def test_the_trainer_packs_rows(tmp_path):
    """Each step runs its real tokens once, with less than 20 % padding."""
    import test_training

    job = test_training.job(tmp_path, GradDiff(), test_training.Recorder(GradDiff()))
    sizes: list[int] = []
    job.model.get_input_embeddings().register_forward_hook(lambda layer, args, out: sizes.append(args[0].numel()))
    train(job)
    for index, run in enumerate(sizes[-2:]):
        batches = job.plan[index]["batches"].values()
        real = sum(int(batch.attention_mask.sum()) for batch in batches)
        assert real <= run < 1.2 * real

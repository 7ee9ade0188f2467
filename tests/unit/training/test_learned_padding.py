"""Labels on padding (`train.learn_padding`): the loss of a model on unmasked labels, means, and refusals."""

import pytest
import torch
import transformers

from expunge.config.load import load_recipe
from expunge.config.recipe import Train
from expunge.data.templates import Encoded
from expunge.errors import ConfigError
from expunge.losses.preference import simnpo
from expunge.modeling.batch import TensorBatch
from expunge.modeling.step import Step
from expunge.training.batching import BatchPlan

PAD, LENGTH = 2, 9
ROWS = [Encoded((1, 7, 8, 9, 2), 1), Encoded((1, 5, 6, 7, 8, 9, 10, 11, 12), 1)]


@pytest.fixture(scope="module")
def model():
    config = transformers.LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    built = transformers.LlamaForCausalLM(config).eval()
    for parameter in built.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.3)
    return built


def micro_batches(**settings):
    config = Train(**{"steps": 1, "lr": 1.0, "batch_size": 2, "max_length": LENGTH, "order": "file", **settings})
    plan = BatchPlan.of(config, {"forget": ROWS}, None, pad_id=PAD, world_size=1, seed=0)
    return [plan[index] for index in range(len(plan))]


def test_losses_are_those_of_unmasked_labels(model):
    """One row at a time, as in the published code: the model's own loss with the ids as labels, padding included."""
    items = micro_batches(learn_padding=True, device_batch_size=1, normalize="microbatch")
    for row, item in zip(ROWS, items, strict=True):
        step = Step({"forget": TensorBatch.of(item["batches"]["forget"], "cpu")}, item["counts"])
        step.bind(model)
        num_padding = LENGTH - len(row.ids)
        ids = torch.tensor([[*row.ids, *[PAD] * num_padding]])
        mask = torch.tensor([[1] * len(row.ids) + [0] * num_padding])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        expected = model(input_ids=ids, attention_mask=mask, position_ids=positions, labels=ids).loss
        torch.testing.assert_close(-step.mean_logp("forget")[0], expected, rtol=1e-5, atol=1e-6)
        # Each of the two micro-batches has half of the batch's mean.
        torch.testing.assert_close(step.nll("forget"), expected / 2, rtol=1e-5, atol=1e-6)
        loss = simnpo(step.mean_logp("forget"), beta=0.7, gamma=0.0)
        torch.testing.assert_close(
            loss[0], -2 / 0.7 * torch.nn.functional.logsigmoid(0.7 * expected), rtol=1e-5, atol=1e-6
        )


def test_means_count_the_padding():
    (item,) = micro_batches(learn_padding=True)
    assert item["counts"]["forget"].tokens == 2 * (LENGTH - 1) == item["batches"]["forget"].labels.size
    assert item["batches"]["forget"].num_answer.tolist() == [LENGTH - 1, LENGTH - 1]
    (plain,) = micro_batches()
    assert plain["counts"]["forget"].tokens == 4 + (LENGTH - 1) == plain["batches"]["forget"].labels.size


def test_methods_with_a_reference_are_refused():
    assert load_recipe("wmdp-simnpo-zephyr").train.learn_padding
    with pytest.raises(ConfigError, match=r"train\.learn_padding: the method npo compares with the reference"):
        load_recipe("wmdp-simnpo-zephyr", ["method={name: npo}"])

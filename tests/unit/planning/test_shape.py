"""Shapes of architectures whose configs lack usual settings, or have one per layer."""

import pytest
import torch
import transformers

from expunge.config.load import parse_recipe
from expunge.planning.shape import shape_of

RECIPE = {
    "name": "shape",
    "model": {"name": "./model"},
    "data": {"name": "synthetic"},
    "method": {"name": "npo"},
    "train": {"epochs": 1, "lr": 1e-4},
}


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "rwkv", "gemma4_text", "gemma3n_text"])
def test_shape_of_unusual_configs(kind):
    config = transformers.AutoConfig.for_model(kind)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = shape_of(parse_recipe(RECIPE), model)
    assert shape.hidden == config.hidden_size
    assert shape.num_trainable == sum(parameter.numel() for parameter in model.parameters())
    assert shape.inner >= shape.hidden
    assert shape.queries > 0

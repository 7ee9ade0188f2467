"""Shapes of architectures whose configs lack usual settings, or have one per layer."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file

from expunge.config.load import parse_recipe
from expunge.errors import IncompatibleError
from expunge.methods.npo import NPO
from expunge.modeling.adapters import prepare_training
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


def tied() -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model("llama", **sizes, **heads, tie_word_embeddings=True)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def test_a_trained_parameter_that_does_not_exist(monkeypatch):
    """Refused by plan and training alike, also beside others that exist."""
    monkeypatch.setattr(NPO, "trainable", lambda *_: ["model.norm.weight", "model.norms.weight"])
    recipe = parse_recipe(RECIPE)
    for use in (lambda: shape_of(recipe, tied()), lambda: prepare_training(tied(), None, 0, recipe.method.trainable)):
        with pytest.raises(IncompatibleError, match=r"selects model\.norms\.weight, and the model has no parameter"):
            use()


def test_a_tied_matrix_has_two_names(monkeypatch):
    """The output layer's name trains the matrix of the input embeddings."""
    monkeypatch.setattr(NPO, "trainable", lambda *_: ["lm_head.weight"])
    recipe, model = parse_recipe(RECIPE), tied()
    assert shape_of(recipe, model).num_trainable == 16 * 50
    prepare_training(model, None, 0, recipe.method.trainable)
    assert model.lm_head.weight.requires_grad
    assert not model.model.norm.weight.requires_grad


def test_weights_of_a_stacked_adapter(tmp_path):
    """A of 3 x 16 and B of 16 x 3 values stay in memory, frozen, below the adapter that is trained."""
    (tmp_path / "base").mkdir()
    tied().config.save_pretrained(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 3, "base_model_name_or_path": str(tmp_path / "base")}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    matrices = {f"{prefix}.lora_A.weight": torch.zeros(3, 16), f"{prefix}.lora_B.weight": torch.zeros(16, 3)}
    save_file(matrices, folder / "adapter_model.safetensors")
    model = {"name": str(folder), "lora": {"rank": 2, "targets": ["q_proj"]}}
    counts = [
        shape_of(parse_recipe({**RECIPE, "model": {**model, "adapter": use}}), tied()).num_stacked
        for use in ("stacked", "merged")
    ]
    assert counts == [2 * 3 * 16, 0]

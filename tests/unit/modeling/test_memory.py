"""The memory estimate against parameter counts that are known and activations that are counted."""

import pytest
import torch
import transformers

from expunge.config.load import load_recipe
from expunge.modeling.known_models import known_models, meta_model
from expunge.modeling.memory import activation_bytes, logits_bytes, memory_estimate

CONFIG = transformers.LlamaConfig(
    vocab_size=100,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
)


def saved_bytes(rows: int, length: int, half: bool) -> int:
    """Bytes that autograd keeps in a forward pass, without parameters and their half-precision copies."""
    model = transformers.AutoModelForCausalLM.from_config(CONFIG, attn_implementation="sdpa")
    shapes = {tuple(order) for p in model.parameters() for order in (p.shape, reversed(p.shape))}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in shapes:
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            alive.append(tensor)  # a freed storage's address would be given away again
        return tensor

    ids = torch.zeros(rows, length, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(sizes.values())


@pytest.mark.parametrize("half", [False, True])
def test_activations_are_what_autograd_keeps(half):
    """Within 5 per cent, on a Llama with grouped queries, padding and 4 x 64 tokens."""
    estimate = activation_bytes(CONFIG, num_tokens=256, length=64, half=half)
    assert estimate == pytest.approx(saved_bytes(4, 64, half), rel=0.05)


def test_checkpointing_keeps_one_layer_and_all_inputs():
    """One layer costs f; four cost 4 f; with checkpointing f + 4 layers x 4 bytes x 128 wide x 256 tokens."""
    full = activation_bytes(CONFIG, num_tokens=256, length=64, half=False)
    kept = activation_bytes(CONFIG, num_tokens=256, length=64, half=False, checkpointing=True)
    assert kept == full // 4 + 4 * 4 * 128 * 256


def test_logits_are_bounded_by_a_chunk():
    """12 bytes per logit: 10 tokens x 100 words = 12,000 bytes; never more than 2^25 logits at a time."""
    assert logits_bytes(CONFIG, 10) == 12_000
    assert logits_bytes(CONFIG, 10**9) == 12 * 2**25


@pytest.mark.parametrize(
    ("part", "count"), [("3.2-3B", 3_212_749_824), ("3.2-1B", 1_235_814_400), ("llama2-7b", 6_738_415_616)]
)
def test_known_models_have_their_published_sizes(part, count):
    name = next(name for name in known_models() if part in name)
    recipe = load_recipe("tofu-forget10-npo", [f"model.name={name}"])
    model = meta_model(recipe.model, online=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_parts_of_full_training_and_of_lora():
    """Adam on P float32 parameters: 4 P weights, 4 P gradients, 8 P moments; a KL term adds a frozen copy of 4 P.

    With LoRA of rank r on one d x d layer per block: 2 r d trained values per block.
    """
    full = load_recipe("quickstart", ["method.retain=kl"])
    model = meta_model(full.model)
    estimate = memory_estimate(full, model, full.train, num_sets=2, length=128)
    size = estimate.num_parameters
    assert estimate.num_trainable == size
    assert [estimate.parts[part] / size for part in ("weights", "gradients", "optimizer", "reference")] == [4, 4, 8, 4]
    assert estimate.total_bytes == sum(estimate.parts.values())

    lora = load_recipe("quickstart", ["method.retain=kl", "model.lora.rank=4", "model.lora.targets=[q_proj]"])
    estimate = memory_estimate(lora, meta_model(lora.model), lora.train, num_sets=2, length=128)
    assert estimate.num_trainable == 4 * 2 * 4 * 192
    assert estimate.parts["reference"] == 0
    assert estimate.parts["optimizer"] == 8 * estimate.num_trainable


def test_eight_bit_optimizers_keep_a_quarter():
    recipe = load_recipe("quickstart", ["train.optimizer=adamw_bnb_8bit"])
    estimate = memory_estimate(recipe, meta_model(recipe.model), recipe.train, num_sets=1, length=8)
    assert estimate.parts["optimizer"] == 2 * estimate.num_parameters

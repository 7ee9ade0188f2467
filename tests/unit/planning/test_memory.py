"""The memory estimate against known parameter counts and against the tensors that autograd saves."""

import dataclasses

import pytest
import torch
import transformers

from expunge.config.load import load_recipe
from expunge.config.recipe import Lora
from expunge.modeling.adapters import add_lora
from expunge.modeling.architectures import bundled_configs, meta_model
from expunge.planning.memory import activation_bytes, logits_bytes, memory_estimate, reference_bytes
from expunge.planning.shape import MicroBatch, Shape, shape_of

HIDDEN, INNER, LAYERS, HEADS = 128, 352, 4, 8
CONFIG = transformers.LlamaConfig(
    vocab_size=100,
    hidden_size=HIDDEN,
    intermediate_size=INNER,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=4,
)
SHAPE = Shape(
    hidden=HIDDEN,
    queries=HIDDEN,
    inner=INNER,
    heads=HEADS,
    layers=LAYERS,
    vocab=100,
    tied=False,
    num_parameters=1000,
    num_trainable=1000,
    trained="all",
    rank=0,
    first=0,
    last=LAYERS - 1,
    num_copied=0,
)
BATCH = MicroBatch(rows=4, positions=400, width=200, answers=[10, 10])
KINDS = {
    "all": SHAPE,
    "adapter": dataclasses.replace(SHAPE, trained="adapter", rank=8),
    "some": dataclasses.replace(SHAPE, trained="some"),
}


def build(trained: str, half: bool):
    model = transformers.AutoModelForCausalLM.from_config(CONFIG, attn_implementation="sdpa")
    if trained == "adapter":
        return add_lora(model.to(torch.bfloat16) if half else model, Lora(rank=8), seed=0).get_base_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained == "all" or "down_proj" in name)
    return model


def saved_bytes(trained: str, half: bool) -> int:
    """Bytes that autograd saves in a forward pass of 2 packed rows, without weights and their half-precision copies."""
    model = build(trained, half)
    shapes = {tuple(order) for p in model.parameters() for order in (p.shape, reversed(p.shape))}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in shapes:
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            alive.append(tensor)  # the address of a freed storage would be used again
        return tensor

    positions = torch.arange(100).repeat(2)[None].expand(2, 200)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.base_model(input_ids=torch.zeros(2, 200, dtype=torch.long), position_ids=positions, use_cache=False)
    return sum(sizes.values())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("trained", KINDS)
def test_activations_are_what_autograd_saves(trained, half):
    """Within 8 per cent, on a Llama with grouped queries and 2 x 200 packed positions."""
    estimate = activation_bytes(KINDS[trained], BATCH, half=half)
    assert estimate == pytest.approx(saved_bytes(trained, half), rel=0.08)


def test_checkpointing_saves_one_layer_and_all_inputs():
    """One layer takes f bytes, four take 4 f; with checkpointing f + 4 layers x 4 bytes x width 128 x 400 positions."""
    full = activation_bytes(SHAPE, BATCH, half=False)
    checkpointed = activation_bytes(SHAPE, BATCH, half=False, checkpointing=True)
    assert checkpointed == full // 4 + 4 * 4 * 128 * 400


def test_logits_are_bounded_by_a_chunk():
    """One set of 10 tokens x 100 words: 12 bytes per logit. With two sets, the one that waits has 4 bytes per logit.

    Above 2^25 logits at a time none are saved, since chunks are recomputed. A comparison doubles everything.
    """
    assert logits_bytes(SHAPE, [10]) == 12_000
    assert logits_bytes(SHAPE, [10, 10]) == 16_000
    assert logits_bytes(SHAPE, [10**9]) == logits_bytes(SHAPE, [10**9, 10**9]) == 12 * 2**25
    assert logits_bytes(SHAPE, [10], compared=True) == 24_000


def test_a_reference_is_a_copy_or_an_output_layer():
    """1000 weights, a vocabulary of 50 and width 2; two cards shard the copy, and each has all of its embeddings."""
    shape = dataclasses.replace(SHAPE, hidden=2, vocab=50, tied=True)
    assert reference_bytes(shape, ("retain",)) == reference_bytes(shape, ("retain",), 2) == 4 * 50 * 2
    assert reference_bytes(shape, True) == 4 * 1000
    assert reference_bytes(shape, True, 2) == 4 * (500 + 50 * 2)
    assert reference_bytes(shape, True, half=True) == 2 * 900 + 4 * 100
    assert reference_bytes(shape, True, elsewhere=True) == 0
    assert reference_bytes(shape, False) == 0
    assert reference_bytes(dataclasses.replace(shape, trained="adapter"), True) == 0


@pytest.mark.parametrize(
    ("pattern", "count"), [("3.2-3B", 3_212_749_824), ("3.2-1B", 1_235_814_400), ("llama2-7b", 6_738_415_616)]
)
def test_known_models_have_their_published_sizes(pattern, count):
    name = next(name for name in bundled_configs() if pattern in name)
    recipe = load_recipe("tofu-forget10-npo", [f"model.name={name}"])
    assert shape_of(recipe, meta_model(recipe.model, online=False)).num_parameters == count


def estimate(overrides: list[str], *, num_gpus: int = 1, batch: MicroBatch = BATCH):
    recipe = load_recipe("quickstart", overrides)
    shape = shape_of(recipe, meta_model(recipe.model))
    return memory_estimate(recipe, shape, recipe.train, batch, num_gpus=num_gpus)


def test_parts_of_full_training_and_of_lora():
    """Adam on P float32 parameters: 4 P weights, 4 P gradients, 8 P moments; a KL at every position needs a copy, 4 P.

    With LoRA of rank r on one d x d layer per block: 2 r d trained values per block.
    """
    kl = ["method={name: graddiff, retain: kl, kl_positions: all}"]
    full = estimate(kl)
    size = full.num_parameters
    assert full.num_trainable == size
    assert [full.parts[part] / size for part in ("weights", "gradients", "optimizer", "reference")] == [4, 4, 8, 4]

    lora = estimate([*kl, "model.lora.rank=4", "model.lora.targets=[q_proj]"])
    assert lora.num_trainable == 4 * 2 * 4 * 192
    assert lora.parts["reference"] == 0
    assert lora.parts["optimizer"] == 8 * lora.num_trainable


def test_gradients_that_a_method_keeps():
    """GRU keeps the retain gradient of the step and the smoothed one: 2 x 4 bytes more than Adam's 8."""
    kept = estimate(["method=gru"])
    assert kept.parts["optimizer"] == (8 + 8) * kept.num_trainable


def test_the_total_is_the_widest_moment():
    """With few positions the gradients of all weights are largest. With many positions activations are, before any
    gradients are allocated, unless these are accumulated.
    """
    whole = ["train.batch_size=16", "train.device_batch_size=16"]
    few = MicroBatch(rows=1, positions=1, width=1, answers=[1])
    narrow, wide = (estimate(whole, batch=batch) for batch in (few, BATCH))
    assert narrow.total_bytes == narrow.moments["backward"] > narrow.moments["forward"]
    assert wide.total_bytes == wide.moments["forward"] > wide.moments["backward"]
    accumulated = estimate(["train.batch_size=16", "train.device_batch_size=8"])
    assert accumulated.moments["forward"] - wide.moments["forward"] == wide.parts["gradients"]


def test_steering_stops_at_its_layer():
    """Layer 2 of 4 with down_proj of layers 1 and 2: two of four layers save activations, there are no logits, and both
    matrices of 192 x 512 values have a frozen copy.
    """
    steered = estimate(["method={name: rmu, layer: 2, update_layers: [1, 2]}"])
    assert steered.num_trainable == 2 * 192 * 512
    assert steered.parts["reference"] == 4 * 2 * 192 * 512
    assert steered.parts["logits"] == 0
    per_layer = 8 * 192 + 4 * (4 * 192 + 4 * 512) + 4 * 200
    assert steered.parts["activations"] == 400 * (per_layer + 4 * 512)


def test_several_gpus_share_all_but_the_activations():
    alone, shared = estimate([]), estimate([], num_gpus=4)
    for part in ("weights", "gradients", "optimizer"):
        assert shared.parts[part] == alone.parts[part] // 4
    assert shared.parts["activations"] == alone.parts["activations"]


def test_several_gpus_gather_two_layers_and_the_embeddings():
    """In float32, with 2 layers and tied embeddings: 4 (2 p + V h) with p = (P - V h) / 2, and as much for gradients.

    A frozen copy of 4 P is sharded like the model, 4 P / 4, and its embeddings V h are gathered.
    """
    recipe = load_recipe("quickstart", [])
    shape = shape_of(recipe, meta_model(recipe.model))
    shared = estimate([], num_gpus=4)
    outside = 4 * shape.head * (1 if shape.tied else 2)
    gathered = 8 * shape.per_layer + outside
    assert shared.parts["autocast"] == gathered
    resident = sum(shared.parts[part] for part in ("weights", "optimizer", "reference", "runtime"))
    tied = 4 * shape.head if shape.tied else 0
    assert shared.moments["backward"] == resident + shared.parts["gradients"] + tied + 2 * gathered
    positions = recipe.evaluate.batch_tokens
    scoring = max(positions * 12 * (shape.hidden + shape.inner), 8 * min(positions * shape.vocab, 2**25))
    assert shared.moments["measured"] == resident + gathered + scoring
    kl = ["method={name: graddiff, retain: kl, kl_positions: all}"]
    assert estimate(kl, num_gpus=4).parts["reference"] == shape.num_parameters + outside


def test_checkpointing_saves_half_precision_copies_of_one_layer_with_several_gpus():
    low, checked = ["model.dtype=bfloat16"], ["model.dtype=bfloat16", "model.gradient_checkpointing=true"]
    full, checkpointed = (estimate(settings, num_gpus=4) for settings in (low, checked))
    recipe = load_recipe("quickstart", low)
    shape = shape_of(recipe, meta_model(recipe.model))
    assert full.parts["autocast"] - checkpointed.parts["autocast"] == 2 * (shape.layers - 1) * shape.per_layer
    assert estimate(low).parts["autocast"] == estimate(checked).parts["autocast"]


def test_eight_bit_optimizers_take_a_quarter():
    small = estimate(["train.optimizer=adamw_bnb_8bit"])
    assert small.parts["optimizer"] == 2 * small.num_parameters

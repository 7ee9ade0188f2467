"""What a layer need not compute: what its start would give too, and MLPs at positions that nobody looks at."""

from collections import Counter

import pytest
import torch
import transformers
from torch import nn

from expunge.modeling.batch import TensorBatch
from expunge.modeling.hidden.steering_pass import SteeringPass, mlp_at, record_outputs, replay_outputs
from expunge.modeling.hidden.trace import layer_trace


def llama(trained: str, **settings):
    """Two layers, of whose parameters only `trained` of the second is trained."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, **settings
    )
    built = transformers.LlamaForCausalLM(config).train()
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(name == f"model.layers.1.{trained}")
    return built


def batch() -> TensorBatch:
    """Rows of 5 and 3 tokens, whose last three and one are the answers."""
    return TensorBatch(
        input_ids=torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0]]),
        attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        rows=torch.tensor([0, 0, 0, 1]),
        positions=torch.tensor([1, 2, 3, 1]),
        labels=torch.tensor([5, 6, 7, 10]),
        num_answer=torch.tensor([3, 1]),
        spans=((0, 5), (0, 3)),
    )


@pytest.fixture
def positions(monkeypatch) -> dict[nn.Module, list[int]]:
    """Linear module -> number of positions that it computed, call by call."""
    found: dict[nn.Module, list[int]] = {}
    plain = nn.Linear.forward

    def forward(self, given):
        found.setdefault(self, []).append(given.shape[:-1].numel())
        return plain(self, given)

    monkeypatch.setattr(nn.Linear, "forward", forward)
    return found


def recorded_in_layer_1(built: transformers.LlamaForCausalLM) -> dict[str, object]:
    """What `record_outputs` records in layer 1 in a forward pass, by submodule."""
    with record_outputs(built.model.layers[1]) as outputs:
        layer_trace(built, batch(), 1)
    return outputs


FRONT = ["self_attn", "mlp.gate_proj", "mlp.up_proj", "input_layernorm", "post_attention_layernorm"]


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ("mlp.down_proj.weight", FRONT),
        ("mlp.up_proj.weight", ["self_attn", "input_layernorm", "post_attention_layernorm", "mlp.gate_proj"]),
        ("self_attn.k_proj.weight", ["input_layernorm", "self_attn.q_proj"]),
        ("input_layernorm.weight", []),
    ],
)
def test_what_comes_before_the_first_trained_weight_is_kept(trained, expected):
    outputs = recorded_in_layer_1(llama(trained))
    assert set(outputs) == set(expected)
    assert not any(tensor.requires_grad for tensor in outputs.values() if isinstance(tensor, torch.Tensor))


@pytest.mark.parametrize("packed", [False, True])
def test_the_start_runs_only_what_can_have_changed(positions, packed):
    """Its down_proj, at the four answer tokens where these alone matter; the result is that of the whole layer."""
    built = llama("mlp.down_proj.weight")
    steering = SteeringPass(built, 1)
    expected = layer_trace(built, batch(), 1).hidden.detach()
    with torch.no_grad():
        built.model.layers[1].mlp.down_proj.weight.mul_(-20)
    mlp = built.model.layers[1].mlp
    positions.clear()
    steering.hidden(batch(), packed)
    count = 4 if packed else 10
    assert positions[mlp.up_proj] == positions[mlp.down_proj] == [count]
    alone = dict(positions)
    positions.clear()
    hidden, frozen = steering.hidden_and_frozen(batch(), packed)
    assert positions == {**alone, mlp.down_proj: [count, count]}
    at = (batch().rows, batch().positions + 1) if packed else ...
    torch.testing.assert_close(frozen[at], expected[at], rtol=0, atol=1e-6)
    assert (hidden[at] - expected[at]).abs().max() > 1e-3, "the model has moved"


def test_with_gradient_checkpointing_the_start_is_run_as_the_model_was():
    """The checkpointed pass computes the MLP everywhere; so does the start, from what was recorded there."""
    built = llama("mlp.down_proj.weight")
    steering = SteeringPass(built, 1)
    expected = layer_trace(built, batch(), 1).hidden.detach()
    built.gradient_checkpointing_enable({"use_reentrant": False})
    assert recorded_in_layer_1(built)
    at = batch().rows, batch().positions + 1
    _, frozen = steering.hidden_and_frozen(batch(), packed=True)
    torch.testing.assert_close(frozen[at], expected[at], rtol=0, atol=1e-6)


def test_a_layer_with_dropout_keeps_nothing():
    """Whether attention drops by a number or a layer by one of its own, as OPT's does."""
    assert recorded_in_layer_1(llama("mlp.down_proj.weight", attention_dropout=0.5)) == {}
    built = llama("mlp.down_proj.weight")
    built.model.layers[1].dropout = 0.1
    assert recorded_in_layer_1(built) == {}
    assert recorded_in_layer_1(built.eval()) != {}


class Layer(nn.Module):
    """A layer whose parts are given, the last of them trained."""

    def __init__(self, run, *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self._run = nn.ModuleList(parts).requires_grad_(False), run
        self.parts[-1].requires_grad_(True)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._run(hidden, *self.parts)


def recorded(layer: nn.Module) -> set[str]:
    with record_outputs(layer) as outputs:
        layer(torch.ones(1, 2, 4))
    return set(outputs)


def test_what_is_not_sure_to_come_again_is_not_kept():
    """A part that runs twice, and parts behind a trained weight that is used without calling its module."""
    parts = [nn.Linear(4, 4) for _ in range(3)]
    assert recorded(Layer(lambda x, one, two, last: last(two(one(x))), *parts)) == {"parts.0", "parts.1"}
    assert recorded(Layer(lambda x, one, two, last: last(two(one(one(x)))), *parts)) == {"parts.1"}
    assert recorded(Layer(lambda x, one, two, last: two(one(x) @ last.weight), *parts)) == set()


def test_replaying_ends():
    layer = Layer(lambda x, one, last: last(one(x)), nn.Linear(4, 4), nn.Linear(4, 4))
    given, calls = torch.ones(1, 2, 4), Counter()
    layer.parts[0].register_forward_hook(lambda *args: calls.update(["parts.0"]))
    expected = layer(given)
    with record_outputs(layer) as outputs:
        layer(given)
    with replay_outputs(layer, {name: output + 1 for name, output in outputs.items()}):
        assert not torch.equal(layer(given), expected)
    assert torch.equal(layer(given), expected)


class Block(nn.Module):
    """Something with an MLP."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mlp(hidden)


class Shifting(nn.Module):
    """Looks at the token before, with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.weight * hidden.roll(1, dims=1)


def test_an_mlp_at_some_positions():
    """The same outputs and gradients there, nothing elsewhere; a loss on those positions gives equal gradients."""
    torch.manual_seed(0)
    block, places = Block(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))), torch.tensor([1, 4, 5])
    given = torch.randn(2, 3, 4, requires_grad=True)
    weights = [given, *block.parameters()]
    plain = block(given).flatten(0, 1)
    expected = torch.autograd.grad(plain[places].square().sum(), weights)
    with mlp_at(block, places):
        found = block(given).flatten(0, 1)
    gradients = torch.autograd.grad(found[places].square().sum(), weights)
    torch.testing.assert_close(found[places], plain[places])
    assert not found[[0, 2, 3]].any()
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mlp", [Shifting(), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()], ids=type)
def test_an_mlp_that_may_look_elsewhere_or_is_random_runs_whole(mlp):
    numbers = []
    mlp.register_forward_hook(lambda module, args, output: numbers.append(args[0].shape))
    with mlp_at(Block(mlp), torch.tensor([1])) as only_there:
        Block(mlp)(torch.ones(2, 3, 4))
    assert not only_there
    assert numbers == [(2, 3, 4)]

"""Skipped computation in decoder layers: recorded outputs for the frozen pass, and MLPs at some positions only."""

import pytest
import torch
import transformers
from torch import nn

from expunge.modeling.batch import TensorBatch
from expunge.modeling.hidden.steering_pass import SteeringPass, mlp_at, record_outputs, replay_outputs
from expunge.modeling.hidden.trace import layer_trace


def llama(trained: str, **settings):
    """Two layers, with `trained` of the second as the only trained parameter."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, **settings
    )
    built = transformers.LlamaForCausalLM(config).train()
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(name == f"model.layers.1.{trained}")
    return built


def batch() -> TensorBatch:
    """Rows of 5 and 3 tokens, with answers of three tokens and one."""
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
    """Number of positions that each linear module computed, call by call."""
    counts: dict[nn.Module, list[int]] = {}
    original = nn.Linear.forward

    def forward(self, hidden):
        counts.setdefault(self, []).append(hidden.shape[:-1].numel())
        return original(self, hidden)

    monkeypatch.setattr(nn.Linear, "forward", forward)
    return counts


def recorded_in_layer_1(built: transformers.LlamaForCausalLM) -> dict[str, object]:
    """Outputs that `record_outputs` records in layer 1, by submodule."""
    with record_outputs(built.model.layers[1]) as outputs:
        layer_trace(built, batch(), 1)
    return outputs


BEFORE_DOWN_PROJ = ["self_attn", "mlp.gate_proj", "mlp.up_proj", "input_layernorm", "post_attention_layernorm"]


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ("mlp.down_proj.weight", BEFORE_DOWN_PROJ),
        ("mlp.up_proj.weight", ["self_attn", "input_layernorm", "post_attention_layernorm", "mlp.gate_proj"]),
        ("self_attn.k_proj.weight", ["input_layernorm", "self_attn.q_proj"]),
        ("input_layernorm.weight", []),
    ],
)
def test_outputs_before_the_first_trained_weight_are_recorded(trained, expected):
    outputs = recorded_in_layer_1(llama(trained))
    assert set(outputs) == set(expected)
    assert not any(tensor.requires_grad for tensor in outputs.values() if isinstance(tensor, torch.Tensor))


@pytest.mark.parametrize("packed", [False, True])
def test_the_frozen_pass_runs_only_changed_modules(positions, packed):
    """Only down_proj runs twice, at the four answer tokens if only these count; the result is unchanged."""
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
    trained_only = dict(positions)
    positions.clear()
    hidden, frozen = steering.hidden_and_frozen(batch(), packed)
    assert positions == {**trained_only, mlp.down_proj: [count, count]}
    answers = (batch().rows, batch().positions + 1) if packed else ...
    torch.testing.assert_close(frozen[answers], expected[answers], rtol=0, atol=1e-6)
    assert (hidden[answers] - expected[answers]).abs().max() > 1e-3, "the trained weights differ"


def test_with_gradient_checkpointing_mlps_run_at_all_positions():
    """The checkpointed pass computes the MLP at all positions, and the frozen pass reuses its recorded outputs."""
    built = llama("mlp.down_proj.weight")
    steering = SteeringPass(built, 1)
    expected = layer_trace(built, batch(), 1).hidden.detach()
    built.gradient_checkpointing_enable({"use_reentrant": False})
    assert recorded_in_layer_1(built)
    answers = batch().rows, batch().positions + 1
    _, frozen = steering.hidden_and_frozen(batch(), packed=True)
    torch.testing.assert_close(frozen[answers], expected[answers], rtol=0, atol=1e-6)


def test_nothing_is_recorded_in_a_layer_with_dropout():
    """The probability is an attribute of the attention module, or of the layer as in OPT."""
    assert recorded_in_layer_1(llama("mlp.down_proj.weight", attention_dropout=0.5)) == {}
    built = llama("mlp.down_proj.weight")
    built.model.layers[1].dropout = 0.1
    assert recorded_in_layer_1(built) == {}
    assert recorded_in_layer_1(built.eval()) != {}


class Layer(nn.Module):
    """A layer of given submodules, the last of them trained."""

    def __init__(self, run, *submodules: nn.Module) -> None:
        super().__init__()
        self.inner, self._run = nn.ModuleList(submodules).requires_grad_(False), run
        self.inner[-1].requires_grad_(True)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._run(hidden, *self.inner)


def recorded(layer: nn.Module) -> set[str]:
    with record_outputs(layer) as outputs:
        layer(torch.ones(1, 2, 4))
    return set(outputs)


def test_ambiguous_outputs_are_not_recorded():
    """A submodule that runs twice, and submodules after a trained weight that is used without calling its module."""
    linears = [nn.Linear(4, 4) for _ in range(3)]
    assert recorded(Layer(lambda x, one, two, last: last(two(one(x))), *linears)) == {"inner.0", "inner.1"}
    assert recorded(Layer(lambda x, one, two, last: last(two(one(one(x)))), *linears)) == {"inner.1"}
    assert recorded(Layer(lambda x, one, two, last: two(one(x) @ last.weight), *linears)) == set()


def test_replaying_ends():
    layer = Layer(lambda x, one, last: last(one(x)), nn.Linear(4, 4), nn.Linear(4, 4))
    hidden = torch.ones(1, 2, 4)
    expected = layer(hidden)
    with record_outputs(layer) as outputs:
        layer(hidden)
    with replay_outputs(layer, {name: output + 1 for name, output in outputs.items()}):
        assert not torch.equal(layer(hidden), expected)
    assert torch.equal(layer(hidden), expected)


class Block(nn.Module):
    """A layer that consists of its MLP."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mlp(hidden)


class Shifting(nn.Module):
    """A module with a weight, whose output depends on the previous token too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.weight * hidden.roll(1, dims=1)


def test_an_mlp_at_some_positions():
    """Equal outputs and gradients there, zeros elsewhere."""
    torch.manual_seed(0)
    block, selected = Block(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))), torch.tensor([1, 4, 5])
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    inputs = [hidden, *block.parameters()]
    full = block(hidden).flatten(0, 1)
    expected = torch.autograd.grad(full[selected].square().sum(), inputs)
    with mlp_at(block, selected):
        partial = block(hidden).flatten(0, 1)
    gradients = torch.autograd.grad(partial[selected].square().sum(), inputs)
    torch.testing.assert_close(partial[selected], full[selected])
    assert not partial[[0, 2, 3]].any()
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("mlp", [Shifting(), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()], ids=type)
def test_an_mlp_that_mixes_positions_or_is_random_runs_at_all_positions(mlp):
    shapes = []
    mlp.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape))
    with mlp_at(Block(mlp), torch.tensor([1])) as is_partial:
        Block(mlp)(torch.ones(2, 3, 4))
    assert not is_partial
    assert shapes == [(2, 3, 4)]

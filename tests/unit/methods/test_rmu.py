"""RMU against plain loops and a full frozen copy, and its error messages."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError

from expunge.config.recipe import Lora, Train
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.errors import IncompatibleError
from expunge.losses.representation import control_vector, relative_distance
from expunge.methods.adaptivermu import AdaptiveRMU
from expunge.methods.base import Method, Objective, Start
from expunge.methods.rmu import RMU
from expunge.modeling.adapters import add_lora
from expunge.modeling.batch import TensorBatch
from expunge.modeling.hidden.steering_pass import SteeringPass
from expunge.modeling.hidden.trace import layer_trace
from expunge.modeling.step import Counts, LossTerms, Step
from expunge.training.batching import BatchPlan
from expunge.training.job import Job
from expunge.training.trainer import train

SETTINGS: dict[str, Any] = {"layer": 2, "update_layers": [1, 2], "c": [3.0], "alpha": [10.0]}
FORGET = [Encoded((1, 5, 6, 7, 8, 2), 1), Encoded((1, 9, 10, 2), 1), Encoded((1, 11, 2), 2)]
RETAIN = [Encoded((1, 20, 21, 22, 2), 1), Encoded((1, 23, 24, 25, 26, 27, 2), 3), Encoded((1, 28, 29, 2), 1)]


def small(kind: str = "llama", **extra: Any) -> Any:
    settings = {"num_hidden_layers": 4, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=32, num_key_value_heads=2, max_position_embeddings=32, **{**settings, **extra}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).double()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.3)
    return model


def freeze(model: Any, method: Method) -> list[str]:
    names = method.trainable(model)
    assert names is not None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return names


def tensors(rows: list[Encoded], pad_id: int = 0) -> TensorBatch:
    return TensorBatch.of(collate(rows, pad_id), "cpu")


def started(method: Method, model: Any, topics: tuple[str, ...] = ("",), seed: int = 1) -> Objective:
    objective = method.objective(1, 1.0)
    objective.start(Start(model, topics, seed, batch=lambda name, step: tensors(FORGET)))
    return objective


def step_of(
    model: Any, forget: list[Encoded], retain: list[Encoded], topic: str = "", whole: dict[str, Counts] | None = None
) -> Step:
    batches = {"forget": tensors(forget), "retain": tensors(retain)}
    counts = {
        name: Counts(len(rows), sum(row.num_answer for row in rows))
        for name, rows in (("forget", forget), ("retain", retain))
    }
    step = Step(batches, {**counts, **(whole or {})}, topic=topic)
    step.bind(model)
    return step


def hidden_of(model: Any, batch: TensorBatch, layer: int) -> torch.Tensor:
    """Output of a layer from a full forward pass that returns all hidden states."""
    # Padding repeats the last position id; its hidden states are part of the published mean.
    positions = batch.attention_mask.cumsum(1) - 1
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        output_hidden_states=True,
        use_cache=False,
        position_ids=positions,
    ).hidden_states[layer + 1]


def plain_mean(hidden: torch.Tensor, target: torch.Tensor, rows: list[Encoded], positions: str) -> torch.Tensor:
    """Mean of squares in plain loops over every (row, position) of the padded batch, or over answer tokens."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for b in range(hidden.shape[0]):
        for position in range(hidden.shape[1]):
            if positions == "labels" and not rows[b].answer_start <= position < len(rows[b].ids):
                continue
            for d in range(hidden.shape[2]):
                expected = target[d] if target.dim() == 1 else target[b, position, d]
                total, count = total + (hidden[b, position, d] - expected) ** 2, count + 1
    return total / count


@pytest.mark.parametrize("positions", ["all", "labels"])
def test_value_and_gradient_equal_plain_loops_on_the_whole_model(positions: str) -> None:
    """L = mean (h - c u)^2 + alpha mean (h - h_frozen)^2, with u = r / |r| and r the generator's first sample."""
    model = small()
    method = RMU(**SETTINGS, positions=positions)
    names = freeze(model, method)
    objective = started(method, model)
    frozen = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.data += 0.1 * torch.randn_like(parameter)

    terms = objective(step_of(model, FORGET, RETAIN))
    terms.total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    sample = torch.rand(8, generator=torch.Generator().manual_seed(1))
    control = (3.0 * sample / sample.square().sum().sqrt()).double()
    model.zero_grad()
    forget, retain = tensors(FORGET), tensors(RETAIN)
    expected_forget = plain_mean(hidden_of(model, forget, 2), control, FORGET, positions)
    expected_retain = 10 * plain_mean(
        hidden_of(model, retain, 2), hidden_of(frozen, retain, 2).detach(), RETAIN, positions
    )
    (expected_forget + expected_retain).backward()
    assert terms.terms["forget"].item() == pytest.approx(expected_forget.item(), rel=1e-6)
    assert terms.terms["retain"].item() == pytest.approx(expected_retain.item(), rel=1e-6)
    assert set(gradients) == set(names)
    for name, parameter in model.named_parameters():
        if name in names:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-8)


def test_only_means_over_all_positions_depend_on_padding() -> None:
    """Padding columns change the published mean, but not the mean over answer tokens."""
    model = small()
    for positions, same in (("labels", True), ("all", False)):
        method = RMU(**SETTINGS, positions=positions)
        freeze(model, method)
        objective = started(method, model)
        narrow = objective(step_of(model, FORGET, RETAIN)).terms["forget"]
        step = step_of(model, FORGET, RETAIN)
        step.batches["forget"] = TensorBatch.of(collate(FORGET, 0, extra_padding=5), "cpu")
        wide = objective(step).terms["forget"]
        assert bool(torch.isclose(narrow, wide, rtol=1e-9)) is same


def test_rows_of_different_length_do_not_mix() -> None:
    """Dividing (B,) by (B, 1) would weight one row's error by another's length.

    With squared errors (10, 2) over (10, 2) tokens the mean per token is 12 / 12 = 1, but the mean of the broadcast
    quotient is 1.8. The correct mean is additive: the losses of single rows with the joint counts sum to the total.
    """
    model = small()
    method = RMU(**SETTINGS, positions="labels")
    freeze(model, method)
    objective = started(method, model)
    everything = objective(step_of(model, FORGET, RETAIN)).terms["forget"]
    counts = {"forget": Counts(3, sum(row.num_answer for row in FORGET))}
    alone = [objective(step_of(model, [row], RETAIN, whole=counts)).terms["forget"] for row in FORGET]
    torch.testing.assert_close(sum(alone), everything)


def test_frozen_hidden_states_equal_those_of_a_frozen_copy() -> None:
    """Only trained tensors are copied, and the frozen hidden states equal those of a second model bit for bit."""
    model = small()
    names = freeze(model, RMU(**SETTINGS))
    steering, reference = SteeringPass(model, 2), copy.deepcopy(model)
    copied = {f"model.layers.{index}.{name}" for index, tensors in steering._frozen.items() for name in tensors}
    assert copied == set(names)
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.data += torch.randn_like(parameter)
    batch = tensors(RETAIN)
    with torch.no_grad():
        hidden, frozen = steering.hidden_and_frozen(batch)
        expected = layer_trace(reference, batch, 2).hidden
    assert not torch.allclose(hidden, expected)
    assert torch.equal(frozen, expected)


def test_frozen_hidden_states_are_without_dropout() -> None:
    """The model trains with dropout from layer 0 on, but the frozen hidden states must not be random."""
    model = small(attention_dropout=0.5).train()
    freeze(model, RMU(**{**SETTINGS, "update_layers": [0, 1, 2]}))
    batch = tensors(RETAIN)
    hidden, frozen = SteeringPass(model, 2).hidden_and_frozen(batch)
    assert model.model.layers[0].training
    assert not torch.allclose(frozen, hidden)
    torch.testing.assert_close(frozen, layer_trace(model.eval(), batch, 2).hidden.detach())


def test_forward_stops_at_the_layer_and_restores_the_model() -> None:
    model = small()
    ran: list[int] = []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.lm_head.register_forward_hook(lambda *_: ran.append(99))
    layer_trace(model, tensors(FORGET), 1)
    assert ran == [0, 1]
    assert len(model.model.layers) == 4
    ran.clear()
    model(input_ids=torch.tensor([[1, 2]]))
    assert ran == [0, 1, 2, 3, 99]


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gemma", "gpt_neox"])
def test_hidden_states_of_other_decoders(kind: str) -> None:
    model = small(kind).eval()
    batch = tensors(FORGET)
    with torch.no_grad():
        hidden = layer_trace(model, batch, 1).hidden
        expected = hidden_of(model, batch, 1)
    real = batch.attention_mask.bool()
    torch.testing.assert_close(hidden[real], expected[real])


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = small().train()
        method = RMU(**SETTINGS)
        freeze(model, method)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        objective = started(method, model)
        objective(step_of(model, FORGET, RETAIN)).total.backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_control_vectors_are_sampled_once_per_topic_in_order() -> None:
    model = small()
    method = RMU(**{**SETTINGS, "c": [3.0, 5.0], "alpha": [10.0, 20.0]})
    freeze(model, method)
    one, again = started(method, model, ("bio", "cyber")), started(method, model, ("bio", "cyber"))
    generator = torch.Generator().manual_seed(1)
    for topic, c in (("bio", 3.0), ("cyber", 5.0)):
        expected = control_vector(8, c, generator)
        assert torch.equal(one.control_vectors[topic], expected)
        assert torch.equal(one.control_vectors[topic], again.control_vectors[topic])
        assert float(expected.norm()) == pytest.approx(c)
        assert bool((expected >= 0).all())
    first, second = (one(step_of(model, FORGET, RETAIN, topic=topic)) for topic in ("bio", "cyber"))
    assert first.terms["forget"] != second.terms["forget"]
    other = started(method, model, ("bio", "cyber"), seed=2)
    assert not torch.equal(other.control_vectors["bio"], one.control_vectors["bio"])


def test_metrics_leave_the_first_token_out() -> None:
    """Cosine computed by hand over positions 1 to n - 1 of each row; the retain distance is 0 before training."""
    model = small()
    method = RMU(**SETTINGS)
    freeze(model, method)
    objective = started(method, model)
    terms = objective(step_of(model, FORGET, RETAIN))
    hidden, control = hidden_of(model, tensors(FORGET), 2).detach(), objective.control_vectors[""].double()
    cosines = [
        float(hidden[b, t] @ control / (hidden[b, t].norm() * control.norm()))
        for b, row in enumerate(FORGET)
        for t in range(row.answer_start, len(row.ids))
    ]
    assert terms.metrics["forget_cosine"].item() == pytest.approx(sum(cosines) / len(cosines), rel=1e-6)
    assert terms.metrics["retain_distance"].item() == 0
    pair = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.0]])
    assert relative_distance(*pair).item() == pytest.approx(3 / 4)


def test_adaptive_length_is_the_mean_norm_on_the_topics_first_batch() -> None:
    model = small()
    method = AdaptiveRMU(layer=2, update_layers=[2], scale=5.0)
    freeze(model, method)
    requests: list[tuple[str, int]] = []

    def batch(name: str, step: int) -> TensorBatch:
        requests.append((name, step))
        return tensors(FORGET if step == 0 else RETAIN)

    objective = method.objective(1, 1.0)
    objective.start(Start(model, ("one", "two"), 1, batch=batch))
    assert requests == [("forget", 0), ("forget", 1)]
    for topic, rows in (("one", FORGET), ("two", RETAIN)):
        norms = layer_trace(model, tensors(rows), 2).hidden.square().sum(-1).sqrt()
        assert float(objective.control_vectors[topic].norm()) == pytest.approx(5 * norms.mean().item(), rel=1e-6)


def test_training_changes_the_named_tensors_and_nothing_else(tmp_path: Path) -> None:
    """With the real trainer and two topics, to the last bit."""
    model = small().float()
    method = RMU(**{**SETTINGS, "update_modules": ["mlp.down_proj.weight", "self_attn.?_proj.weight"]})
    names = freeze(model, method)
    assert len(names) == 2 * (1 + 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    forget = [Encoded(row.ids, row.answer_start, topic=topic) for topic in ("a", "b") for row in FORGET]
    config = Train(steps=4, lr=1e-2, batch_size=2, max_grad_norm=0, weight_decay=0, warmup_epochs=0, order="file")
    sets = {"forget": forget, "retain": RETAIN}
    plan = BatchPlan.of(config, sets, method.needs(), pad_id=0, world_size=1, seed=0)
    train(Job("Test", model, plan, method.objective(4, 1.0), config, tmp_path, seed=0))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(names)


def test_topics_alternate_in_file_order() -> None:
    """Batch i has topic i mod 2; forget row p of its topic is paired with retain row p."""
    forget = [Encoded((1, index, 2), 1, topic="ab"[index % 2]) for index in range(10)]
    retain = [Encoded((1, index, 2), 1) for index in range(7)]
    config = Train(steps=6, lr=1, batch_size=2, retain_pairing="modulo", order="file")
    sets = {"forget": forget, "retain": retain}
    plan = BatchPlan.of(config, sets, RMU().needs(), pad_id=0, world_size=1, seed=0)
    assert plan.topics == ("a", "b")
    rows = [plan.rows_of(step) for step in range(6)]
    assert [batch["forget"] for batch in rows] == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 0], [9, 1]]
    assert [batch["retain"] for batch in rows] == [[0, 1], [0, 1], [2, 3], [2, 3], [4, 0], [4, 0]]
    assert [plan[step]["topic"] for step in range(6)] == ["a", "b"] * 3
    config = Train(epochs=1, lr=1, batch_size=10, device_batch_size=10)
    mixed = BatchPlan.of(config, {"forget": forget}, None, pad_id=0, world_size=1, seed=0)
    assert sorted(mixed.rows_of(0)["forget"]) == list(range(10))


class TestBadInput:
    def test_layer_outside_the_model(self) -> None:
        with pytest.raises(IncompatibleError, match=r"method.layer: 40 is outside .*layers 0-3.*try layer 0 or 1"):
            RMU(layer=40, update_layers=[3]).trainable(small())
        with pytest.raises(IncompatibleError, match=r"method.layer: 7 is outside"):
            RMU().trainable(small())

    def test_update_layer_above_the_steered_layer(self) -> None:
        with pytest.raises(ValidationError, match="layer 3 has no effect on the output of layer 2"):
            RMU(layer=2, update_layers=[1, 3])

    def test_pattern_that_matches_nothing(self) -> None:
        with pytest.raises(
            IncompatibleError, match=r"'mlp.down_prj.weight' matches no parameter of model.layers.1"
        ) as e:
            RMU(**{**SETTINGS, "update_modules": ["mlp.down_prj.weight"]}).trainable(small())
        assert "Did you mean 'mlp.down_proj.weight'?" in str(e.value)

    def test_adapters_are_rejected(self) -> None:
        model = add_lora(small().float(), Lora(rank=2), seed=0).get_base_model()
        with pytest.raises(IncompatibleError, match=r"model\.lora\) has no effect"):
            RMU(**SETTINGS).trainable(model)

    @pytest.mark.parametrize("name", ["c", "alpha"])
    def test_values_that_do_not_fit_the_topics(self, name: str) -> None:
        model = small()
        method = RMU(**{**SETTINGS, name: [1.0, 2.0]})
        freeze(model, method)
        with pytest.raises(IncompatibleError, match=f"method.{name} has 2 values for 3 topics"):
            started(method, model, ("a", "b", "c"))


def test_loss_terms_are_finite_in_half_precision() -> None:
    """The square of a hidden state of length 400 overflows float16, so means are computed in float32."""
    model = small().to(torch.bfloat16)
    method = RMU(**SETTINGS)
    freeze(model, method)
    terms: LossTerms = started(method, model)(step_of(model, FORGET, RETAIN))
    assert terms.total.dtype == torch.float32
    assert bool(torch.isfinite(terms.total))

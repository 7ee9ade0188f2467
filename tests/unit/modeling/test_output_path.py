"""How log-probabilities are computed is found out by a trial: by the output layer, or by the model's own code."""

import types
from dataclasses import dataclass

import pytest
import torch
import transformers

from expunge.config.recipe import Lora, Model
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.errors import DataError, IncompatibleError, one_line
from expunge.modeling import forward, load
from expunge.modeling.adapters import add_lora, lora_layers
from expunge.modeling.batch import TensorBatch
from expunge.modeling.capabilities import can_pack
from expunge.modeling.forward import OutputPath, decode, head_of, length_limits, output_path
from expunge.modeling.hidden.trace import layer_list
from expunge.modeling.load import context_length, load_model
from expunge.modeling.reference import FrozenReference, StoredReference, make_reference, reference_logp
from expunge.modeling.step import Counts, Step
from expunge.probes.scoring import score

SIZES = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROWS = [Encoded(tuple(range(5, 5 + length)), 2) for length in (9, 4, 12)]
OWN = {
    "hyperclovax": {"logits_scaling": 4.0},
    "recurrent_gemma": {
        "logits_soft_cap": 2.0,
        "attention_window_size": 8,
        "lru_width": 24,
        "block_types": ("recurrent", "attention"),
    },
    "modernbert-decoder": {"local_attention": 16},
}


def build(kind: str, **settings: object) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.3)
    return model


def plain_logp(model: transformers.PreTrainedModel, row: Encoded) -> torch.Tensor:
    logp = model(input_ids=torch.tensor([row.ids])).logits[0].float().log_softmax(-1)
    return logp[range(row.answer_start - 1, len(row.ids) - 1), list(row.targets)]


def step(model: transformers.PreTrainedModel, reference: object = None, ids: object = None) -> Step:
    batch = TensorBatch.of(collate(ROWS, 0), "cpu")
    result = Step({"forget": batch}, {"forget": Counts(3, 19)}, reference=reference, row_ids=ids)
    result.bind(model)
    return result


@pytest.mark.parametrize("kind", OWN)
@torch.no_grad()
def test_models_that_change_their_logits_after_the_output_layer(kind, capsys):
    """A scale, a soft cap, and a head of two matrices: the model's own code gives its own log-probabilities."""
    forward._note_own_path.cache_clear()
    model = build(kind, **OWN[kind])
    assert output_path(model) == OutputPath("model", positions=True)
    output_path(build(kind, **OWN[kind]))
    assert capsys.readouterr().err.count("own output code") == 1
    expected = [plain_logp(model, row) for row in ROWS]
    for values, logp in zip(score(model, ROWS, pad_id=0, batch_tokens=100), expected, strict=True):
        assert values.logp == pytest.approx(logp.numpy(), abs=1e-4)
    assert step(model).token_logp("forget") == pytest.approx(torch.cat(expected), abs=1e-4)
    sums = [float(logp.sum()) for logp in expected]
    assert reference_logp(model, ROWS, 0) == pytest.approx(sums, abs=1e-4)


@pytest.mark.parametrize("kind", OWN)
def test_gradients_of_the_own_output_code(kind):
    """Gradients reach the head too, also when chunks are computed again in the backward pass."""
    model = build(kind, **OWN[kind])
    (-torch.cat([plain_logp(model, row) for row in ROWS]).mean()).backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expunge.modeling.logprobs.CHUNK_ELEMENTS", 60 * 4)
        model.zero_grad()
        (-step(model).token_logp("forget").mean()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", OWN)
def test_reference_of_the_own_output_code(kind, tmp_path):
    """KL to the model itself is 0, and 0.5 of it is not: the reference's head is frozen with its model."""
    model = build(kind, **OWN[kind])
    ids = {"forget": [0, 1, 2]}
    reference = make_reference(
        model, ("forget",), {"forget": ROWS}, 0, folder=tmp_path, visited_rows=lambda: {"forget": [0, 1, 2]}
    )
    assert isinstance(reference, FrozenReference)
    rows = {name: torch.tensor(indices).numpy() for name, indices in ids.items()}
    assert float(step(model, reference, rows).kl("forget").detach()) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    changed = step(model, reference, rows)
    expected = _plain_kl(build(kind, **OWN[kind]), model)
    assert float(changed.kl("forget").detach()) == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def _plain_kl(reference: transformers.PreTrainedModel, model: transformers.PreTrainedModel) -> float:
    total = 0.0
    for row in ROWS:
        before, after = (
            each(input_ids=torch.tensor([row.ids])).logits[0, row.answer_start - 1 : -1].log_softmax(-1)
            for each in (reference, model)
        )
        total += float((before.exp() * (before - after)).sum())
    return total / 19


def test_stored_reference_of_a_projected_width(tmp_path):
    """OPT's decoder returns states of another width than its layers have."""
    model = build("opt", ffn_dim=32, word_embed_proj_dim=12)
    sets = {"forget": ROWS}
    reference = make_reference(model, ("forget",), sets, 0, folder=tmp_path, visited_rows=lambda: {"forget": [0, 1, 2]})
    assert isinstance(reference, StoredReference)
    rows = {"forget": torch.tensor([0, 1, 2]).numpy()}
    assert float(step(model, reference, rows).kl("forget").detach()) == pytest.approx(0, abs=1e-6)


def test_usual_models_keep_the_output_layer():
    for kind, settings in {
        "llama": {},
        "gemma2": {"final_logit_softcapping": 3.0, "sliding_window": 4},
        "granite": {"logits_scaling": 4.0},
        "cohere": {"logit_scale": 0.25},
        "llama4_text": {"num_local_experts": 2, "intermediate_size_mlp": 32},
    }.items():
        assert output_path(build(kind, **settings)).head == "layer", kind


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_same_paths(dtype):
    """Rounding is not taken for another output layer, and a scale of 1.05 is not taken for rounding."""
    for kind, settings, head in [
        ("llama", {}, "layer"),
        ("mistral", {"sliding_window": 4}, "layer"),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, "layer"),
        ("hyperclovax", {"logits_scaling": 1.05}, "model"),
    ]:
        assert output_path(build(kind, **settings).to(dtype)).head == head, kind


@dataclass
class _Output:
    """An output without the fields of transformers."""

    states: torch.Tensor


def test_decoders_without_last_hidden_state_give_their_logits():
    """The forward pass is not split, and everything else works as before."""
    model = build("llama")
    expected = [plain_logp(model, row).detach() for row in ROWS]
    decoder = model.model
    run = decoder.forward
    decoder.forward = lambda *args, **kwargs: _Output(run(*args, **kwargs).last_hidden_state)

    def full(self, **inputs):
        return types.SimpleNamespace(logits=self.lm_head(self.model(**inputs).states))

    model.forward = types.MethodType(full, model)
    assert output_path(model) == OutputPath("logits", positions=True)
    assert decode(model, TensorBatch.of(collate(ROWS, 0), "cpu")).shape == (3, 12, 60)
    for values, logp in zip(score(model, ROWS, pad_id=0, batch_tokens=100), expected, strict=True):
        assert values.logp == pytest.approx(logp.numpy(), abs=1e-4)
    with pytest.raises(IncompatibleError, match="no hidden states"):
        score(model, ROWS, pad_id=0, batch_tokens=100, hidden=True)
    loss = step(model).nll("forget")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-float(torch.cat(expected).mean()), abs=1e-5)


def test_a_model_that_sees_later_tokens_is_refused():
    """BERT without is_decoder: its scores would contain the answer."""
    with pytest.raises(IncompatibleError, match=r"later tokens.*is_decoder"):
        output_path(build("bert"))
    output_path(build("bert", is_decoder=True))


def test_a_model_that_needs_more_than_text_is_refused():
    model = build("llama")
    model.forward = types.MethodType(lambda self, input_ids, pixels, **_: None, model)
    with pytest.raises(IncompatibleError, match=r"does not run on text alone.*pixels"):
        output_path(model)


def test_a_model_that_mixes_the_rows_of_a_batch_is_refused():
    model = build("llama")
    run = model.model.forward

    def mixed(*args, **kwargs):
        output = run(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(0, keepdim=True)
        return output

    model.model.forward = mixed
    with pytest.raises(IncompatibleError, match="padded batch"):
        output_path(model)


def test_weights_that_are_not_finite_are_left_to_the_loss():
    model = build("llama")
    model.lm_head.weight.data[0] = torch.nan
    assert output_path(model).head == "layer"


def test_the_trial_is_made_once_and_not_seen_by_hooks():
    model, calls = build("llama"), []
    hook = model.model.register_forward_hook(lambda *_: calls.append(1))
    output_path(model)
    assert not calls
    decode(model, TensorBatch.of(collate(ROWS, 0), "cpu"))
    assert len(calls) == 1
    hook.remove()
    assert not model.model._forward_hooks


def test_gemma_3_with_vision(tmp_path):
    """Nested settings: vocabulary, context and decoder layers are those of the language model."""
    text = {**SIZES, "sliding_window": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config=text, vision_config={**vision, "num_hidden_layers": 2}, mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), config=Model(name=str(tmp_path)))
    assert type(model).__name__ == "Gemma3ForConditionalGeneration"
    assert context_length(model.config) == 128
    assert "vision" not in layer_list(model)[0]
    for values, row in zip(score(model, ROWS, pad_id=0, batch_tokens=100), ROWS, strict=True):
        assert values.logp == pytest.approx(plain_logp(model, row).detach().numpy(), abs=1e-4)
    model.train()
    expected = -float(torch.cat([plain_logp(model, row) for row in ROWS]).mean().detach())
    assert float(step(model).nll("forget").detach()) == pytest.approx(expected, abs=1e-5)


def test_context_length_by_other_names():
    assert context_length(transformers.MptConfig(max_seq_len=99)) == 99
    assert context_length(transformers.GPT2Config(n_positions=98)) == 98
    assert context_length(transformers.RwkvConfig(context_length=97)) == 97
    assert context_length(transformers.BloomConfig()) > 10**5


def test_architectures_without_sdpa_run_eagerly(tmp_path, capsys):
    load._note_eager.cache_clear()
    build("xglm", d_model=24, ffn_dim=32, num_layers=2, attention_heads=4).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), config=Model(name=str(tmp_path)))
    assert model.config._attn_implementation == "eager"
    load_model(str(tmp_path), config=Model(name=str(tmp_path)))
    assert capsys.readouterr().err.count("XGLMForCausalLM does not support model.attention=sdpa") == 1


def test_rows_beyond_a_limit_have_a_trial_of_their_own():
    """With LongRoPE, a long row changes the positions of all rows in its batch."""
    factors = {"short_factor": [1.0] * 3, "long_factor": [8.0, 4.0, 2.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16, **factors}
    model = build("phi3", rope_parameters=rope, original_max_position_embeddings=16)
    items = [Encoded(tuple(5 + (7 * k) % 50 for k in range(length)), 2) for length in (10, 40, 24)]
    assert 15 in length_limits(model, 9, 40)
    for values, row in zip(score(model, items, pad_id=0, batch_tokens=1000), items, strict=True):
        assert values.logp == pytest.approx(plain_logp(model, row).detach().numpy(), abs=1e-4)


def test_dynamic_rope_forgets_longer_rows():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = build("llama", rope_parameters=rope, max_position_embeddings=16)
    items = [Encoded(tuple(5 + (7 * k) % 50 for k in range(length)), 2) for length in (10, 40, 24)]
    expected = []
    for row in items:
        fresh = build("llama", rope_parameters=rope, max_position_embeddings=16)
        expected.append(plain_logp(fresh, row).detach().numpy())
    for _ in range(2):
        for values, logp in zip(score(model, items, pad_id=0, batch_tokens=1000), expected, strict=True):
            assert values.logp == pytest.approx(logp, abs=1e-4)


def test_packing_is_tried_at_the_lengths_that_are_run():
    """A model that cuts its input into chunks by column: rows packed into one chunk say nothing about wider ones."""
    model = build("llama")
    model.config.attention_chunk_size = 32
    run = model.model.forward

    def chunked(input_ids, **inputs):
        output = run(input_ids, **inputs)
        output.last_hidden_state[:, 32:] *= 2
        return output

    model.model.forward = chunked
    assert can_pack(model)
    assert can_pack(model, [10, 9, 8])
    assert not can_pack(model, [20, 20, 20])
    assert can_pack(build("llama"), [20, 20, 20])


@torch.no_grad()
def test_the_head_projects_the_states_of_decode():
    for kind, settings in {"llama": {}, **OWN}.items():
        model = build(kind, **settings)
        batch = TensorBatch.of(collate(ROWS[:1], 0), "cpu")
        expected = model(input_ids=batch.input_ids).logits[0].log_softmax(-1)
        actual = head_of(model)(decode(model, batch)[0]).log_softmax(-1)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_adapters_that_cannot_be_trained_are_refused():
    """Mamba's kernels read some matrices directly, and Llama 4's router is more than a linear layer."""
    with pytest.raises(IncompatibleError, match=r"incompatible with Mamba.*Name other modules"):
        add_lora(build("mamba", state_size=4), Lora(), seed=0)
    llama4 = {"num_local_experts": 2, "intermediate_size_mlp": 32}
    with pytest.raises(IncompatibleError, match=r"Llama4ForCausalLM cannot be trained with this adapter.*q_proj"):
        add_lora(build("llama4_text", **llama4), Lora(), seed=0)
    adapted = add_lora(build("llama4_text", **llama4), Lora(targets=["q_proj", "v_proj"]), seed=0)
    assert not adapted.get_base_model().training
    with pytest.raises(IncompatibleError, match="match no module"):
        add_lora(build("llama"), Lora(targets=["nothing"]), seed=0)


def test_the_reference_of_an_adapter_has_the_original_head():
    """ModernBERT's head has a matrix that 'all-linear' adapts too."""
    model = build("modernbert-decoder", **OWN["modernbert-decoder"])
    adapted = add_lora(model, Lora(rank=2), seed=0)
    assert any(name.startswith("lm_head.") for name in lora_layers(adapted.get_base_model()))
    reference = FrozenReference(adapted)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name and "head" in name:
            parameter.data.normal_(std=0.5)
    current = step(adapted.get_base_model(), reference)
    value = current.kl("forget", "labels")
    expected = _plain_kl(build("modernbert-decoder", **OWN["modernbert-decoder"]), adapted)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-3)
    assert expected > 0.01


def test_messages_of_the_hub_are_complete(tmp_path):
    """The reason is often in the last lines, such as a gated model's address."""
    (tmp_path / "config.json").write_text('{"model_type": "no_such_architecture"}')
    with pytest.raises(DataError) as caught:
        load_model(str(tmp_path), config=Model(name=str(tmp_path)))
    assert "pip install git+https://github.com/huggingface/transformers" in str(caught.value)
    assert one_line(ValueError("word " * 500)).count("word") == 500

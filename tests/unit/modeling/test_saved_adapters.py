"""Adapter checkpoints: found, loaded on their base model, merged, stacked, joined and refused."""

import copy
import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers

from expunge.config.recipe import Lora, Model
from expunge.errors import DataError, IncompatibleError, UserError
from expunge.modeling.adapter_loading import check_shapes
from expunge.modeling.adapters import add_lora
from expunge.modeling.load import load_model, load_tokenizer, local_digest, model_hash
from expunge.modeling.saved_adapters import find_adapter, is_low_rank
from expunge.modeling.saving import save_model
from expunge.modeling.types import CausalLM

VOCAB = 61
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES = {
    "llama": {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64},
    "tied": {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


def build(architecture: str = "llama", vocab: int = VOCAB, **settings) -> CausalLM:
    """A model with random weights that are large enough for its predictions to differ."""
    name = "llama" if architecture == "tied" else architecture
    sizes = {**ARCHITECTURES[architecture], **settings}
    config = transformers.AutoConfig.for_model(name, vocab_size=vocab, bos_token_id=1, eos_token_id=2, **sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.3)
    return model


def save_adapter(base: Path, folder: Path, config: peft.PeftConfig, seed: int = 1) -> Path:
    """An adapter with random weights, so that it changes the model."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), copy.deepcopy(config))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "modules_to_save" not in name:
            parameter.data += torch.randn_like(parameter) * 0.05
        elif parameter.requires_grad:
            parameter.data *= 1.1
    model.save_pretrained(folder)
    return folder


def lora(**settings) -> peft.LoraConfig:
    defaults = {"r": 3, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return peft.LoraConfig(**{**defaults, **settings})


ADAPTERS = {
    "lora": lora(),
    "rslora": lora(use_rslora=True),
    "patterns": lora(rank_pattern={"q_proj": 5}, alpha_pattern={r"layers\.1\.self_attn\.q_proj": 9, "up_proj": 1}),
    "some layers": lora(target_modules=["v_proj", "down_proj"], layers_to_transform=[1]),
    "no task": lora(task_type=None),
}
NOT_LOW_RANK = {
    "dora": lora(use_dora=True),
    "output layer": lora(target_modules=["q_proj", "lm_head"]),
    "embeddings": lora(target_modules=["q_proj", "embed_tokens"]),
    "full modules": lora(modules_to_save=["lm_head"]),
    "tokens": lora(trainable_token_indices=[3, 4]),
    "pissa": lora(init_lora_weights="pissa"),
    "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": peft.LoHaConfig(r=2, target_modules=["q_proj", "up_proj"]),
    "lokr": peft.LoKrConfig(r=2, target_modules=["q_proj", "up_proj"]),
}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 19)[None], use_cache=False).logits


def plain_logits(folder: Path) -> torch.Tensor:
    """Logits of base model and adapter as peft loads them."""
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return logits(peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), folder))


def load(folder: Path, use: str = "unmerged", **settings):
    return load_model(str(folder), config=Model(name=str(folder)), adapter=use, **settings)


@pytest.fixture
def base(tmp_path):
    build().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("use", ["unmerged", "merged", "stacked"])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_model_is_base_and_adapter(base, tmp_path, kind, use):
    folder = save_adapter(base, tmp_path / "adapter", ADAPTERS[kind])
    expected = plain_logits(folder)
    assert (expected - logits(build())).abs().max() > 0.1
    model = load(folder, use)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert hasattr(model, "disable_adapter") == (use == "unmerged")
    assert any(parameter.requires_grad for parameter in model.parameters()) == (use != "unmerged")


@pytest.mark.parametrize("kind", NOT_LOW_RANK)
def test_other_adapters_are_merged_and_not_stacked(base, tmp_path, kind):
    folder = save_adapter(base, tmp_path / "adapter", NOT_LOW_RANK[kind])
    expected = plain_logits(folder)
    assert (expected - logits(build())).abs().max() > 0.05
    assert check_shapes(build(), find_adapter(str(folder))) > 0
    for use in ("unmerged", "merged"):
        torch.testing.assert_close(logits(load(folder, use)), expected, atol=1e-5, rtol=1e-5)
    assert not is_low_rank(find_adapter(str(folder)))
    with pytest.raises(IncompatibleError, match=r"cannot be stacked: it .* Set model.adapter=merged"):
        load(folder, "stacked")


def test_transposed_layers(tmp_path):
    build("gpt2").save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "base", tmp_path / "adapter", lora(target_modules=["c_attn", "c_fc"]))
    for use in ("unmerged", "merged", "stacked"):
        torch.testing.assert_close(logits(load(folder, use)), plain_logits(folder), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use", ["merged", "stacked"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "gate_proj"]])
def test_a_second_adapter_and_its_checkpoint(base, tmp_path, use, targets):
    """Without the new adapter the model is the first one; the checkpoint is one adapter of the base model."""
    kind = lora(target_modules=["q_proj", "down_proj"], rank_pattern={"q_proj": 5})
    first = save_adapter(base, tmp_path / "first", kind)
    saved = find_adapter(str(first))
    model = add_lora(load(first, use), Lora(rank=2, alpha=5, targets=targets), seed=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name and ".default." in name for name in trained)
    torch.testing.assert_close(logits(model.eval()), plain_logits(first), atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    expected = logits(model)
    assert (expected - plain_logits(first)).abs().max() > 0.1
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), plain_logits(first), atol=1e-5, rtol=1e-5)
    save_model(model, _NoTokenizer(), tmp_path / "second", joined=saved)
    torch.testing.assert_close(plain_logits(tmp_path / "second"), expected, atol=1e-5, rtol=1e-5)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=1e-5)
    again = find_adapter(str(tmp_path / "second"))
    assert again.base == str(base)
    assert again.settings["r"] == 5 + 2
    assert is_low_rank(again)


class _NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        pass


@pytest.mark.parametrize("where", ["absolute", "beside", "inside", "current folder"])
def test_the_base_model_is_found(base, tmp_path, monkeypatch, where):
    folder = save_adapter(base, tmp_path / "adapter", lora())
    expected = plain_logits(folder)
    names = {"absolute": str(base), "beside": "../base", "inside": "base", "current folder": "work/../base"}
    if where == "inside":
        base.rename(folder / "base")
    rewrite(folder, base_model_name_or_path=names[where])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    torch.testing.assert_close(logits(load(folder)), expected)


def rewrite(folder: Path, **settings) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_moved_run_finds_its_shared_model(base, tmp_path):
    shared = tmp_path / "runs/shared/model-1"
    shared.mkdir(parents=True)
    base.rename(shared / "model")
    folder = save_adapter(shared / "model", tmp_path / "runs/mine/checkpoint", lora())
    expected = plain_logits(folder)
    (tmp_path / "runs").rename(tmp_path / "moved")
    torch.testing.assert_close(logits(load(tmp_path / "moved/mine/checkpoint")), expected)


def test_two_base_models_of_one_name(base, tmp_path, monkeypatch):
    folder = save_adapter(base, tmp_path / "adapter", lora())
    shutil.copytree(base, folder / "base")
    rewrite(folder, base_model_name_or_path="base")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="as well as"):
        find_adapter(str(folder))


def test_a_full_model_in_the_same_folder(base, tmp_path):
    """The base model or the merged model may be in the adapter's folder; a third model may not."""
    folder = save_adapter(base, tmp_path / "adapter", lora())
    expected = plain_logits(folder)
    load(folder, "merged").save_pretrained(folder)
    torch.testing.assert_close(logits(load(folder)), expected)
    shutil.copytree(base, folder, dirs_exist_ok=True)
    torch.testing.assert_close(logits(load(folder)), expected)
    rewrite(folder, base_model_name_or_path=str(folder))
    for use in ("unmerged", "merged"):
        torch.testing.assert_close(logits(load(folder, use)), expected)
    rewrite(folder, base_model_name_or_path=str(base))
    other = build()
    for parameter in other.parameters():
        parameter.data *= 1.5
    other.save_pretrained(folder)
    with pytest.raises(DataError, match="neither that of the base model"):
        load(folder)


def several(folder: Path) -> None:
    shutil.copytree(folder, folder / "other")


def in_subfolder(folder: Path) -> None:
    shutil.copytree(folder, folder / "other")
    for path in folder.glob("adapter_*"):
        path.unlink()


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def damaged(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def incomplete(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "adapter_model.safetensors")


def chained(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "another")
    rewrite(folder, base_model_name_or_path=str(folder.parent / "another"))


MISTAKES = {
    "no base": (lambda folder: rewrite(folder, base_model_name_or_path=None), "does not name its base model"),
    "missing base": (
        lambda folder: rewrite(folder, base_model_name_or_path="/nowhere/base"),
        r"the base model /nowhere/base of the adapter .* does not exist.*base_model_name_or_path",
    ),
    "adapter of an adapter": (chained, "is an adapter checkpoint itself.*Merge that one"),
    "several": (several, "has 2 adapters.*/other.*folder of its own"),
    "in a subfolder": (in_subfolder, "Give the one to use, such as .*/other"),
    "pickled": (pickled, r"pickled weights \(.bin\).*pickles can run code"),
    "damaged": (damaged, "damaged"),
    "incomplete": (incomplete, "does not fit its base model"),
    "another task": (lambda folder: rewrite(folder, task_type="SEQ_CLS"), "is for the task SEQ_CLS"),
    "not json": (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not complete JSON"),
    "aLoRA": (lambda folder: rewrite(folder, alora_invocation_tokens=[3]), "aLoRA"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_work_is_refused(base, tmp_path, mistake):
    folder = save_adapter(base, tmp_path / "adapter", lora())
    change, message = MISTAKES[mistake]
    change(folder)
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "settings", [{"hidden_size": 32}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}], ids=lambda s: str(s)
)
def test_an_adapter_of_another_model(base, tmp_path, settings):
    folder = save_adapter(base, tmp_path / "adapter", lora(target_modules=["q_proj", "down_proj"]))
    other = build(**settings)
    other.save_pretrained(tmp_path / "other")
    rewrite(folder, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(IncompatibleError, match=r"does not fit its base model"):
        load(folder)
    with pytest.raises(IncompatibleError, match=r"does not fit its base model"):
        check_shapes(other, find_adapter(str(folder)))


def test_an_extended_vocabulary(base, tmp_path):
    """An adapter that was trained after new tokens were added has embeddings of another size."""
    folder = save_adapter(base, tmp_path / "adapter", lora(modules_to_save=["embed_tokens", "lm_head"]))
    build(vocab=VOCAB - 1).save_pretrained(base)
    with pytest.raises(IncompatibleError, match=r"does not fit its base model.*vocabulary was extended"):
        load(folder)


@pytest.mark.parametrize("kind", ["prompt tuning", "prefix tuning"])
def test_prompts_are_not_adapters_of_layers(base, tmp_path, kind):
    configs = {"prompt tuning": peft.PromptTuningConfig, "prefix tuning": peft.PrefixTuningConfig}
    config = configs[kind](num_virtual_tokens=4, task_type="CAUSAL_LM")
    peft.get_peft_model(build(), config).save_pretrained(tmp_path / "adapter")
    rewrite(tmp_path / "adapter", base_model_name_or_path=str(base))
    with pytest.raises(IncompatibleError, match=r"is of type \w+_TUNING.*Supported: LoRA, IA3, LoHa, LoKr"):
        load(tmp_path / "adapter")


def test_an_adapted_output_layer_that_is_also_the_embeddings(tmp_path):
    """Merged, the update would change both; as peft loads it, only the output layer."""
    build("tied").save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "base", tmp_path / "adapter", lora(target_modules=["lm_head", "q_proj"]))
    torch.testing.assert_close(logits(load(folder)), plain_logits(folder))
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(IncompatibleError, match=r"cannot be merged: .* both input and output embeddings"):
            load(folder, "merged", dtype=dtype)


def test_an_adapter_that_cannot_be_merged(base, tmp_path):
    folder = save_adapter(base, tmp_path / "adapter", lora(lora_bias=True))
    torch.testing.assert_close(logits(load(folder)), plain_logits(folder))
    for use, message in (("merged", "cannot be merged: .* no bias"), ("stacked", "it uses lora_bias")):
        with pytest.raises(IncompatibleError, match=message):
            load(folder, use)


def test_half_precision(base, tmp_path, capsys):
    """Small updates are below the precision of bfloat16 weights: merging loses them, stacking does not."""
    folder = save_adapter(base, tmp_path / "adapter", lora())
    load(folder, "merged", dtype=torch.bfloat16)
    assert "of its update to rounding" in capsys.readouterr().err
    rewrite(folder, lora_alpha=0.02)
    with pytest.raises(IncompatibleError, match=r"would lose \d+% of its update.*model.adapter=stacked"):
        load(folder, "merged", dtype=torch.bfloat16)
    load(folder, "stacked", dtype=torch.bfloat16)
    load(folder, "merged")


def test_the_base_model_is_part_of_the_identity(base, tmp_path):
    folder = save_adapter(base, tmp_path / "adapter", lora())
    digest, weights = local_digest(str(folder)), model_hash(load(folder))
    stacked = model_hash(load(folder, "stacked"))
    assert stacked != model_hash(load_model(str(base), config=Model(name=str(base))))
    other = build()
    other.model.norm.weight.data *= 1.01
    other.save_pretrained(base)
    assert local_digest(str(folder)) != digest
    assert model_hash(load(folder)) != weights
    assert model_hash(load(folder, "stacked")) != stacked


def test_a_tokenizer_of_its_own_or_of_the_base_model(base, tmp_path):
    from expunge.modeling.load import train_tokenizer

    folder = save_adapter(base, tmp_path / "adapter", lora())
    small, large = (train_tokenizer(["Who was it?"] * 9, size, 64) for size in (270, 280))
    large.save_pretrained(base)
    assert len(load_tokenizer(str(folder))) == len(large)
    small.save_pretrained(folder)
    assert len(load_tokenizer(str(folder))) == len(small)

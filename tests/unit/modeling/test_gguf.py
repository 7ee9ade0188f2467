"""GGUF files as models: the same logits as the model that was written, converted once, refused with a reason."""

import shutil

import numpy as np
import pytest
import torch
import transformers

from expunge.config.recipe import Model
from expunge.errors import DataError, MissingExtraError
from expunge.modeling import gguf as conversion
from expunge.modeling.architectures import model_config
from expunge.modeling.gguf import as_folder
from expunge.modeling.load import load_model, load_tokenizer

pytestmark = pytest.mark.slow

gguf = pytest.importorskip("gguf", reason="needs the extra 'gguf'")
HEADS = 4
WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "Ġ", "Ġa", "<|end|>"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    conversion._converted.cache_clear()
    return tmp_path / "cache" / "expunge" / "gguf"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(WORDS) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(len(WORDS) - 1)
    writer.add_eos_token_id(len(WORDS) - 1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        array = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            array = interleaved(array)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(weight):
    """llama.cpp rotates neighbouring dimensions of a head, transformers those half a head apart."""
    return (
        weight.reshape(HEADS, 2, weight.shape[0] // HEADS // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def test_same_logits_and_tokenizer(file, model, cache):
    loaded = load_model(str(file), config=Model(name=str(file)))
    ids = torch.tensor([[0, 9, 3, 5, 10]])
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=2e-3)
    tokenizer = load_tokenizer(str(file))
    assert tokenizer("ab a").input_ids[-3:] == [0, 1, 9]
    assert tokenizer.eos_token == "<|end|>"
    assert model_config(Model(name=str(file))).num_hidden_layers == 2


def test_converted_once_and_again_when_the_file_changes(file, cache, tmp_path, capsys):
    copied = tmp_path / "mine.gguf"
    shutil.copy(file, copied)
    first = as_folder(str(copied))
    conversion._converted.cache_clear()
    capsys.readouterr()
    assert as_folder(str(copied)) == first
    assert "Converting" not in capsys.readouterr().err
    copied.write_bytes(copied.read_bytes() + b"\0")
    assert as_folder(str(copied)) != first
    assert sorted(path.name for path in cache.iterdir() if path.name.startswith(".")) == []


def test_refusals(file, cache, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="does not exist"):
        as_folder(str(tmp_path / "absent.gguf"))
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(DataError, match="is not a GGUF file"):
        as_folder(str(other))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match="cannot be read"):
        as_folder(str(cut))
    assert not any(path.name.startswith("cut") for path in cache.iterdir())
    monkeypatch.setattr(conversion.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="expunge\\[gguf\\]"):
        as_folder(str(file))


def test_other_names_are_unchanged(tmp_path):
    folder = tmp_path / "model.gguf"
    folder.mkdir()
    assert as_folder(str(folder)) == str(folder)
    assert as_folder("org/model") == "org/model"
    assert as_folder("folder.gguf.old") == "folder.gguf.old"

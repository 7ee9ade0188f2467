"""Model folders with damaged, foreign or hostile files."""

import json
import os
import pickle
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.config.recipe import Model, Prompt
from expunge.data.templates import Template
from expunge.modeling.architectures import model_config
from expunge.modeling.load import check_tokenizer, load_model, load_tokenizer


class Touch:
    """A pickle that would create a file when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.fixture
def folder(tiny_model, tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(tiny_model, copied)
    return copied


def weights(change):
    """Return a function that changes the bytes of the weight file."""

    def damage(folder):
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def tensors(change):
    """Return a function that changes the tensors in the weight file."""

    def damage(folder):
        path = folder / "model.safetensors"
        loaded = load_file(path)
        change(loaded)
        save_file(loaded, path, metadata={"format": "pt"})

    return damage


def header(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def entry(**values) -> bytes:
    values = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **values}
    return header(json.dumps({"model.norm.weight": values}).encode()) + bytes(4)


def set_value(name, value):
    def change(loaded):
        loaded[name][0] = value

    return tensors(change)


def replace_all(content: bytes):
    return weights(lambda old: content)


def config(**values):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def file(name, content):
    def damage(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def remove(name):
    return lambda folder: (folder / name).unlink()


def instead(name, make):
    def damage(folder):
        (folder / name).unlink()
        make(folder / name)

    return damage


NORM = "model.norm.weight"
MODELS = {
    "no weights": (remove("model.safetensors"), ""),
    "no config": (remove("config.json"), "config.json"),
    "empty weights": (replace_all(b""), "model.safetensors"),
    "weights cut in the header": (weights(lambda old: old[:100]), "model.safetensors"),
    "weights cut in half": (weights(lambda old: old[: len(old) // 2]), "model.safetensors"),
    "weights cut by a byte": (weights(lambda old: old[:-1]), "model.safetensors"),
    "weights with a byte more": (weights(lambda old: old + b"x"), "model.safetensors"),
    "header longer than the file": (replace_all(struct.pack("<Q", 10**6) + b"{}"), "model.safetensors"),
    "header of 2^63 bytes": (replace_all(struct.pack("<Q", 2**63) + b"{}"), "model.safetensors"),
    "header of 2^64 - 1 bytes": (replace_all(b"\xff" * 8 + b"{}"), "model.safetensors"),
    "header of zero bytes": (replace_all(bytes(8)), "model.safetensors"),
    "header that is no JSON": (replace_all(header(b"hello")), "model.safetensors"),
    "header that is a list": (replace_all(header(b"[]")), "model.safetensors"),
    "header nested deeply": (replace_all(header(b'{"a":' * 50_000)), "model.safetensors"),
    "header without tensors": (replace_all(header(b"{}")), ""),
    "offsets beyond the file": (replace_all(entry(data_offsets=[0, 10**12])), "model.safetensors"),
    "offsets in reverse": (replace_all(entry(data_offsets=[4, 0])), "model.safetensors"),
    "negative offsets": (replace_all(entry(data_offsets=[-4, 0])), "model.safetensors"),
    "shape that overflows": (replace_all(entry(shape=[2**40, 2**40])), "model.safetensors"),
    "shape of another size": (replace_all(entry(shape=[2])), "model.safetensors"),
    "negative shape": (replace_all(entry(shape=[-1])), "model.safetensors"),
    "unknown type": (replace_all(entry(dtype="EVIL")), "model.safetensors"),
    "pickle under that name": (replace_all(pickle.dumps(Touch())), "model.safetensors"),
    "torch file under that name": (replace_all(b"PK\x03\x04" + bytes(200)), "model.safetensors"),
    "text of Git LFS": (
        replace_all(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "model.safetensors",
    ),
    "HTML": (replace_all(b"<!doctype html>"), "model.safetensors"),
    "pickled weights only": (
        instead("model.safetensors", lambda p: p.with_name("pytorch_model.bin").touch()),
        "pickle",
    ),
    "folder as weights": (instead("model.safetensors", os.mkdir), "model.safetensors"),
    "pipe as weights": (instead("model.safetensors", os.mkfifo), "model.safetensors"),
    "link to itself as weights": (instead("model.safetensors", lambda p: p.symlink_to(p)), "model.safetensors"),
    "pipe as config": (instead("config.json", os.mkfifo), "config.json"),
    "NaN in a weight": (set_value(NORM, float("nan")), NORM),
    "infinity in a weight": (set_value(NORM, float("inf")), NORM),
    "NaN in an embedding": (set_value("model.embed_tokens.weight", float("nan")), "model.embed_tokens.weight"),
    "missing tensor": (tensors(lambda loaded: loaded.pop(NORM)), NORM),
    "tensor of another shape": (tensors(lambda loaded: loaded.update({NORM: torch.ones(7)})), NORM),
    "tensor of more dimensions": (tensors(lambda loaded: loaded.update({NORM: torch.ones(2, 8)})), NORM),
    "empty tensor": (tensors(lambda loaded: loaded.update({NORM: torch.ones(0)})), NORM),
    "config empty": (file("config.json", ""), "config.json"),
    "config cut": (file("config.json", '{"model_type": "ll'), "config.json"),
    "config list": (file("config.json", "[]"), "config.json"),
    "config null": (file("config.json", "null"), "config.json"),
    "config deep": (file("config.json", '{"a":' * 100_000), "config.json"),
    "config Latin-1": (file("config.json", b'{"model_type": "\xfc"}'), "config.json"),
    "config without type": (file("config.json", "{}"), ""),
    "unknown type of model": (config(model_type="evil"), "evil"),
    "type of model is a list": (config(model_type=["llama"]), ""),
    "type of model is a path": (config(model_type="../../x"), ""),
    "remote code": (
        config(auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}, model_type="evil"),
        "",
    ),
    "a billion layers": (config(num_hidden_layers=10**9), "num_hidden_layers"),
    "a negative number of layers": (config(num_hidden_layers=-1), "num_hidden_layers"),
    "layers in words": (config(num_hidden_layers="many"), "num_hidden_layers"),
    "a huge hidden size": (config(hidden_size=2**20, head_dim=2**19), ""),
    "hidden size in words": (config(hidden_size="wide"), ""),
    "hidden size of zero": (config(hidden_size=0), ""),
    "vocabulary of another size": (config(vocab_size=7), ""),
    "unknown activation": (config(hidden_act="evil"), ""),
    "adapter config that is a list": (file("adapter_config.json", "[]"), "adapter_config.json"),
    "adapter config cut": (file("adapter_config.json", '{"peft'), "adapter_config.json"),
    "adapter on itself": (file("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "."}'), ""),
}

TOKENIZERS = {
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], ""),
    "empty": (file("tokenizer.json", ""), ""),
    "cut": (lambda f: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text()[:500]), ""),
    "null": (file("tokenizer.json", "null"), ""),
    "list": (file("tokenizer.json", "[]"), ""),
    "empty object": (file("tokenizer.json", "{}"), ""),
    "unknown model": (file("tokenizer.json", '{"model": {"type": "Evil"}}'), ""),
    "vocabulary of words": (file("tokenizer.json", '{"model": {"type": "BPE", "vocab": "a", "merges": []}}'), ""),
    "negative ids": (file("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'), ""),
    "merges of unknown tokens": (
        file("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}}'),
        "",
    ),
    "deep": (file("tokenizer.json", '{"a":' * 50_000), ""),
    "binary": (file("tokenizer.json", bytes(range(256))), ""),
    "pipe": (instead("tokenizer.json", os.mkfifo), "tokenizer.json"),
    "folder": (instead("tokenizer.json", os.mkdir), "tokenizer.json"),
    "config cut": (file("tokenizer_config.json", '{"tok'), ""),
    "config list": (file("tokenizer_config.json", "[]"), ""),
    "config null": (file("tokenizer_config.json", "null"), ""),
    "config Latin-1": (file("tokenizer_config.json", b'{"a": "\xfc"}'), ""),
    "class that runs code": (
        file(
            "tokenizer_config.json", '{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", null]}}'
        ),
        "",
    ),
    "special token that is a number": (file("tokenizer_config.json", '{"eos_token": 3}'), ""),
}


def load(folder):
    model_config(Model(name=str(folder)))
    return load_model(str(folder), config=Model(name=str(folder)))


@pytest.mark.parametrize("name", MODELS)
def test_malformed_model(name, folder, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    damage, words = MODELS[name]
    damage(folder)
    refused(lambda: load(folder), str(folder), words)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_malformed_tokenizer(name, folder, refused):
    damage, words = TOKENIZERS[name]
    damage(folder)

    def use():
        # Some files load as a tokenizer that cannot be used.
        tokenizer = load_tokenizer(str(folder))
        Template(tokenizer, Prompt(style="plain"), 128).encode("Where?", "In Bern.")

    refused(use, words)


def test_vocabulary_larger_than_the_embeddings(folder, refused):
    model, tokenizer = load(folder), load_tokenizer(str(folder))
    num_embeddings = len(tokenizer)
    tokenizer.add_tokens([f"new{i}" for i in range(50)])
    words = (f"{num_embeddings + 50} tokens", f"{num_embeddings} embeddings")
    refused(lambda: check_tokenizer(model, tokenizer, str(folder)), *words)


def test_control_an_undamaged_folder_loads(folder):
    tokenizer = load_tokenizer(str(folder))
    assert load(folder).config.vocab_size == len(tokenizer)
    assert Template(tokenizer, Prompt(style="chat"), 128).encode("Where?", "In Bern.").num_answer > 1


@pytest.mark.parametrize(
    "path", ["/nothing", "./nothing", "../nothing", "~nosuchuser/model", "a" * 5000, "a\x00b"], ids=range(6)
)
def test_path_that_is_no_model(path, refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(lambda: load_model(path, config=Model(name=path)))


def test_nan_weights_on_the_command_line(cli, recipe_file, folder, tmp_path):
    MODELS["NaN in a weight"][0](folder)
    outcome = cli("run", recipe_file, f"model.name={folder}", "--runs", tmp_path / "runs")
    assert outcome.code == 2
    assert NORM in outcome.err
    assert "Traceback" not in outcome.err

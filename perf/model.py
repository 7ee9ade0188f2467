"""Models, rows and methods that the benchmarks of training share.

The rows are TOFU's forget10 and retain90. The environment variable EXPUNGE_TOFU names a folder with TOFU's files; if it
is not set, they are downloaded from huggingface.co/datasets/locuslab/TOFU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers

from expunge.config.recipe import Prompt, TofuData
from expunge.data.prepare import prepare_sets
from expunge.data.refusals import answer_with_refusals
from expunge.data.sets import Sets
from expunge.data.templates import Encoded, Template
from expunge.methods.base import Method
from expunge.methods.bases.preference import PREFERRED
from expunge.methods.graddiff import GradDiff
from expunge.methods.idkdpo import IdkDPO
from expunge.methods.npo import NPO
from expunge.methods.rmu import RMU
from expunge.methods.satimp import SatImp
from expunge.methods.simnpo import SimNPO
from expunge.methods.undial import UNDIAL
from expunge.methods.wga import WGA
from expunge.modeling.load import load_tokenizer, train_tokenizer

PAD = 0
"""Id written into padding, that of the tokenizer trained in `tofu_rows`; no result depends on it."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama with random weights, by default 50 million, or a folder with a model and its sizes."""

    num_layers: int = 8
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_heads: int = 8
    vocab_size: int = 16_384
    max_length: int = 1024
    folder: str = ""

    @classmethod
    def of_folder(cls, folder: str) -> Shape:
        """Return the sizes of the model in a folder."""
        config = transformers.AutoConfig.from_pretrained(folder)
        return cls(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            vocab_size=config.vocab_size,
            max_length=min(config.max_position_embeddings, 1024),
            folder=folder,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes without the folder, for records."""
        return {name: value for name, value in vars(self).items() if name != "folder"}


def rmu(layer: int, first: int) -> RMU:
    """Return RMU that steers `layer` and trains the layers from `first` to it."""
    return RMU(layer=layer, update_layers=list(range(first, layer + 1)), positions="labels", c=[2.0], alpha=[100.0])


METHODS: dict[str, Method] = {
    "graddiff": GradDiff(),
    "simnpo": SimNPO(),
    "wga": WGA(),
    "satimp": SatImp(),
    "npo": NPO(),
    "idkdpo": IdkDPO(),
    "graddiff-kl": GradDiff(retain="kl"),
    # With a retain term, so that both implementations do the same work; UNDIAL's default leaves retain rows out.
    "undial": UNDIAL(retain_weight=1.0),
    "rmu-4": rmu(4, 2),
    "rmu-2": rmu(2, 0),
}
"""Name in the tables -> settings."""


def model(shape: Shape, seed: int = 0) -> Any:
    """Return the model of the folder in float32, or else one with random weights."""
    if shape.folder:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            shape.folder, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True
        )
        return loaded.train()
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        max_position_embeddings=shape.max_length,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()


def tofu_sets() -> Sets:
    """Return TOFU's forget10 and retain90 from the folder EXPUNGE_TOFU, or else from the hub."""
    folder = os.environ.get("EXPUNGE_TOFU")
    data = TofuData(split="forget10", duplicates="off")
    return prepare_sets(data.model_copy(update={"path": folder}) if folder else data)


def tofu_tokenizer(vocab_size: int) -> Any:
    """Return a tokenizer trained on the text of forget10 and retain90."""
    sets = tofu_sets()
    assert sets.retain is not None
    texts = [f"Question: {row.question}\nAnswer: {row.answer}" for rows in (sets.forget, sets.retain) for row in rows]
    return train_tokenizer(texts, vocab_size, 1024)


def tofu_rows(shape: Shape) -> dict[str, list[Encoded]]:
    """Return forget10, retain90 and a refusal per forget row.

    They are encoded by the tokenizer of the model's folder or, without one, by a tokenizer trained on their text.
    """
    sets = tofu_sets()
    assert sets.retain is not None
    tokenizer = load_tokenizer(shape.folder) if shape.folder else tofu_tokenizer(shape.vocab_size)
    template = Template(tokenizer, Prompt(style="plain"), shape.max_length)
    return {
        "forget": template.encode_set(sets.forget),
        "retain": template.encode_set(sets.retain),
        PREFERRED: template.encode_set(answer_with_refusals(PREFERRED, sets.forget, 0)),
    }


def fixed_rows(length: int, vocab_size: int, num: int = 64) -> dict[str, list[Encoded]]:
    """Return random rows of one length, a third of it prompt, to measure how cost grows with length."""
    rng = np.random.default_rng(0)

    def random_rows(name: str) -> list[Encoded]:
        ids = rng.integers(3, vocab_size, size=(num, length)).tolist()
        return [Encoded(ids=tuple(row), answer_start=length // 3, row=f"{name}/{i}") for i, row in enumerate(ids)]

    return {name: random_rows(name) for name in ("forget", "retain", PREFERRED)}


def rows_of(method: Method, rows: Mapping[str, list[Encoded]]) -> dict[str, list[Encoded]]:
    """Return the sets that a method needs."""
    return {name: rows[name] for name in method.needs().sets}

"""The model, the rows and the methods that everything here is measured on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from expunge.config.recipe import Prompt, TofuData
from expunge.data.prepare import prepare_sets
from expunge.data.refusals import answer_with_refusals
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
from expunge.modeling.load import train_tokenizer

PAD = 0
"""Id of the padding token of the tokenizer that is trained here."""


@dataclass(frozen=True)
class Shape:
    """A Llama with random weights; the default has 50 million of them."""

    num_layers: int = 8
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_heads: int = 8
    vocab_size: int = 16_384
    max_length: int = 1024


def _rmu(layer: int, first: int) -> RMU:
    return RMU(layer=layer, update_layers=list(range(first, layer + 1)), positions="labels", c=[2.0], alpha=[100.0])


METHODS: dict[str, Method] = {
    "graddiff": GradDiff(),
    "simnpo": SimNPO(),
    "wga": WGA(),
    "satimp": SatImp(),
    "npo": NPO(),
    "idkdpo": IdkDPO(),
    "graddiff-kl": GradDiff(retain="kl"),
    # With a retain term, so that both ways have the same work; its own default leaves the retain rows out.
    "undial": UNDIAL(retain_weight=1.0),
    "rmu-4": _rmu(4, 2),
    "rmu-2": _rmu(2, 0),
}
"""Name in the table -> settings."""


def model(shape: Shape, seed: int = 0) -> Any:
    """A causal language model of this shape."""
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


def tofu_folder() -> Path:
    """Folder with TOFU's files: EXPUNGE_SHARED/data/tofu, or that of a folder `shared` beside the repository."""
    root = Path(os.environ.get("EXPUNGE_SHARED", Path(__file__).parents[1].parent / "shared"))
    folder = root / "data" / "tofu"
    if not folder.is_dir():
        sys.exit(f"No TOFU data in {folder}: set EXPUNGE_SHARED to a folder that has data/tofu.")
    return folder


def tofu_rows(vocab_size: int) -> dict[str, list[Encoded]]:
    """forget10 and retain90 with a tokenizer trained on their text, and a refusal for each forget row."""
    sets = prepare_sets(TofuData(split="forget10", path=str(tofu_folder()), duplicates="off"))
    assert sets.retain is not None
    texts = [f"Question: {row.question}\nAnswer: {row.answer}" for rows in (sets.forget, sets.retain) for row in rows]
    tokenizer = train_tokenizer(texts, vocab_size, 1024)
    template = Template(tokenizer, Prompt(style="plain"), 1024)
    return {
        "forget": template.encode_set(sets.forget),
        "retain": template.encode_set(sets.retain),
        PREFERRED: template.encode_set(answer_with_refusals(PREFERRED, sets.forget, 0)),
    }


def fixed_rows(length: int, vocab_size: int, num: int = 64) -> dict[str, list[Encoded]]:
    """Random rows of one length, a third of it prompt: to see how cost grows with it."""
    rng = np.random.default_rng(0)

    def some(name: str) -> list[Encoded]:
        ids = rng.integers(3, vocab_size, size=(num, length)).tolist()
        return [Encoded(ids=tuple(row), answer_start=length // 3, row=f"{name}/{i}") for i, row in enumerate(ids)]

    return {name: some(name) for name in ("forget", "retain", PREFERRED)}


def rows_of(method: Method, rows: Mapping[str, list[Encoded]]) -> dict[str, list[Encoded]]:
    """The sets that a method asks for."""
    return {name: rows[name] for name in method.needs().sets}

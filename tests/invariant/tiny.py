"""Small models with random weights and rows of random tokens, for tests that compare two ways of one computation."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from expunge.config.recipe import Train
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.methods.base import Needs
from expunge.modeling.adapters import causal_lm
from expunge.modeling.batch import TensorBatch
from expunge.modeling.reference import FrozenReference, reference_logp
from expunge.modeling.step import Counts, LossTerms, Step
from expunge.training.batching import BatchPlan

VOCAB = 61
_LLAMA = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    # Soft caps on logits and attention, and a sliding window in every other layer.
    "gemma2": {
        **_LLAMA,
        "head_dim": 6,
        "sliding_window": 4,
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
    },
    "granite": {**_LLAMA, "logits_scaling": 4.0},
    # Learned absolute positions: a position that is wrong by one gives another number.
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


def model(architecture: str = "llama", seed: int = 0) -> Any:
    """A model whose weights are large enough for its predictions to be far from uniform."""
    config = transformers.AutoConfig.for_model(
        architecture, vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0, **ARCHITECTURES[architecture]
    )
    attention = "eager" if architecture == "gemma2" else "sdpa"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.3)
    return built


def rows(num: int, seed: int = 0, shortest: int = 3, longest: int = 14) -> list[Encoded]:
    """Rows of random length with an answer of random length, ending in token 2."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(num):
        length = int(rng.integers(shortest, longest + 1))
        ids = (*rng.integers(3, VOCAB, size=length - 1).tolist(), 2)
        found.append(Encoded(ids=ids, answer_start=int(rng.integers(1, length)), row=f"rows/{seed}/{index}"))
    return found


def batch(items: Sequence[Encoded], side: str = "right", extra_padding: int = 0) -> TensorBatch:
    return TensorBatch.of(collate(items, 0, side, extra_padding), "cpu")  # type: ignore[arg-type]


def step(
    built: Any,
    sets: dict[str, list[Encoded]],
    *,
    start: Any = None,
    side: str = "right",
    extra_padding: int = 0,
) -> Step:
    """A step whose effective batch is exactly these rows; `start` is the frozen start model."""
    made = Step(
        {name: batch(items, side, extra_padding) for name, items in sets.items()},
        {name: Counts(len(items), sum(item.num_answer for item in items)) for name, items in sets.items()},
        {name: torch.from_numpy(reference_logp(start, items, 0)).float() for name, items in sets.items()}
        if start is not None
        else {},
        FrozenReference(start) if start is not None else None,
    )
    made.bind(causal_lm(built))
    return made


def gradients(built: Any, terms: LossTerms) -> dict[str, torch.Tensor]:
    """Gradient of the loss with respect to every parameter."""
    built.zero_grad()
    terms.total.backward()
    return {name: parameter.grad.clone() for name, parameter in built.named_parameters() if parameter.grad is not None}


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Equal to `tolerance` times the largest entry of all: rounding is relative to what was added up."""
    assert one.keys() == other.keys()
    assert one
    largest = max(float(value.abs().max()) for value in one.values())
    assert largest > 0
    worst = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert worst <= tolerance * largest, f"{worst / largest:.2e} of the largest entry"


def plan(
    sets: dict[str, list[Encoded]], *, world_size: int = 1, seed: int = 3, aligned: tuple[str, ...] = (), **train: Any
) -> BatchPlan:
    """Two steps of 8 rows, unless the settings of `train` differ."""
    settings = Train(**{"lr": 1, "steps": 2, "batch_size": 8, **train})
    return BatchPlan.of(settings, sets, Needs(aligned=aligned), pad_id=0, world_size=world_size, seed=seed)


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a train.jsonl without what a clock makes different."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

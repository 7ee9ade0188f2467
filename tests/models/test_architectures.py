"""Every causal language model class of transformers gives the numbers of plain transformers, or is refused.

`make test` runs the classes in `SAMPLE`, `make test-models` all of them, and writes results/models/architectures.json.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
import transformers

from expunge.config.recipe import Lora, Model
from expunge.data.collate import collate
from expunge.data.templates import Encoded
from expunge.errors import UserError
from expunge.modeling.adapters import add_lora, causal_lm
from expunge.modeling.batch import TensorBatch
from expunge.modeling.capabilities import can_pack
from expunge.modeling.forward import output_path
from expunge.modeling.load import load_model
from expunge.modeling.step import Counts, Step
from expunge.probes.generation import generate
from expunge.probes.scoring import score

RECORD = Path(__file__).parents[2] / "results" / "models" / "architectures.json"
SAMPLE = ["bamba", "bert", "falcon_h1", "gemma3", "llama4_text", "mamba2", "minimax", "mistral", "modernbert-decoder"]
TOLERANCE = 1e-4
COLUMNS = ["scoring", "training", "packing", "sharing", "generation", "lora", "saving"]
results: dict[str, dict[str, str]] = {}


def rows() -> list[Encoded]:
    """Answers to shared prompts, shorter and longer than a sliding window, and rows of their own."""
    rng = np.random.default_rng(1)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.integers(small.FIRST_TOKEN, small.VOCAB - 1, length).tolist())

    short, long = ids(5), ids(6)
    return [
        *(Encoded((*short, *ids(length)), 5) for length in (2, 1, 2)),
        *(Encoded((*long, *ids(length)), 6) for length in (23, 9, 14)),
        Encoded((*ids(4), *ids(28)), 4),
        Encoded((*ids(9), *ids(17)), 9),
    ]


def plain_logits(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def plain_logp(model: Any, row: Encoded) -> torch.Tensor:
    """Log-probability of each answer token, from a forward pass over the row alone."""
    logp = plain_logits(model, row.ids).log_softmax(-1)
    return logp[torch.arange(row.answer_start - 1, len(row.ids) - 1), torch.tensor(row.targets)]


def close(actual: Any, expected: Any) -> None:
    """Compare to `TOLERANCE` of the largest value."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    largest = max(1.0, float(expected.abs().max()))
    worst = float((actual - expected).abs().max())
    assert worst <= TOLERANCE * largest, f"{worst:.1e} off, of {largest:.1e}"


def scoring(model: Any) -> str:
    items = rows()
    scores = score(model, items, pad_id=0, batch_tokens=4096, share_prompts=False)
    with torch.no_grad():
        for item, values in zip(items, scores, strict=True):
            close(values.logp, plain_logp(model, item))
    return "ok" if output_path(model).head == "layer" else "own path"


def sharing(model: Any) -> str:
    """Equal to rows alone, whatever else is scored with them."""
    items = rows()
    calls: list[int] = []
    from expunge.probes import scoring as module

    original = module.tree_hidden_states
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(module, "tree_hidden_states", lambda *args: calls.append(1) or original(*args))
        for group in (items, items[:3], [items[0], *items[3:]]):
            calls.clear()
            scores = score(model, group, pad_id=0, batch_tokens=4096)
            for item, values in zip(group, scores, strict=True):
                close(values.logp, plain_logp(model, item))
            if group is items:
                shared = len(calls)
    # A failed trial runs one tree; trees that passed theirs run once more.
    return "ok" if shared > 1 else "not used"


def losses_and_gradients(model: Any, packed: bool) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Mean loss of an effective batch and its gradients, plain and ours."""
    items = rows()
    outcomes = []
    for ours in (False, True):
        model.zero_grad()
        if ours:
            batch = TensorBatch.of(collate(items, 0), "cpu")
            counts = Counts(len(items), sum(item.num_answer for item in items))
            step = Step({"forget": batch}, {"forget": counts}, packed=packed)
            step.bind(causal_lm(model))
            loss = step.nll("forget")
        else:
            loss = -torch.cat([plain_logp(model, item) for item in items]).mean()
        loss.backward()
        outcomes.append((loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    return outcomes


def compare_training(model: Any, packed: bool) -> None:
    (plain_loss, plain), (loss, ours) = losses_and_gradients(model, packed)
    close(loss, plain_loss)
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    for name in plain.keys() | ours.keys():
        zero = torch.zeros_like(model.get_parameter(name))
        worst = float((ours.get(name, zero) - plain.get(name, zero)).abs().max())
        assert worst <= TOLERANCE * largest, f"{name}: gradient {worst / largest:.1e} of the largest off"


def set_training(model: Any) -> None:
    """Set training mode, unless the model is then random without any dropout."""
    model.train()
    with torch.no_grad():
        if any(not torch.equal(*(plain_logits(model, row.ids) for _ in range(2))) for row in rows()):
            model.eval()


def training(model: Any) -> str:
    set_training(model)
    compare_training(model, packed=False)
    model.eval()
    return "ok" if output_path(model).head == "layer" else "own path"


def packing(model: Any) -> str:
    if not can_pack(model, [len(item.ids) for item in rows()]):
        return "not used"
    set_training(model)
    compare_training(model, packed=True)
    model.eval()
    return "ok"


def generation(model: Any) -> str:
    """Equal to the model's own `generate`, or else to the most likely token of each forward pass."""
    prompts = [list(item.ids[:size]) for item, size in zip(rows()[3:7], (5, 3, 15, 20), strict=True)]
    lengths = [14, 2, 14, 14]
    answers = generate(model, prompts, max_new_tokens=lengths, eos_ids=[], pad_id=0, batch_tokens=4096)
    for prompt, length, answer in zip(prompts, lengths, answers, strict=True):
        assert answer in (own_answer(model, prompt, length), greedy_answer(model, prompt, length))
    modes = {mode for mode, _ in vars(model)["_generation_modes"].values()}
    return "ok" if modes == {"cache"} else "without cache" if "recompute" in modes else "own path"


def own_answer(model: Any, prompt: list[int], length: int) -> list[int] | None:
    settings, model.generation_config = model.generation_config, transformers.GenerationConfig()
    try:
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=length, do_sample=False, pad_token_id=0)
        return ids[0, len(prompt) :].tolist()
    except (AttributeError, ValueError):
        return None
    finally:
        model.generation_config = settings


@torch.no_grad()
def greedy_answer(model: Any, prompt: list[int], length: int) -> list[int]:
    ids = list(prompt)
    for _ in range(length):
        ids.append(int(plain_logits(model, tuple(ids))[-1].argmax()))
    return ids[len(prompt) :]


def lora(model: Any) -> str:
    """Loss and gradients of an adapter that is not zero."""
    adapted = add_lora(model, Lora(rank=2), seed=0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    set_training(adapted)
    compare_training(adapted, packed=can_pack(causal_lm(adapted), [len(item.ids) for item in rows()]))
    adapted.unload()
    return "ok"


def saving(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    loaded = load_model(str(folder), config=Model(name=str(folder))).eval()
    with torch.no_grad():
        item = rows()[6]
        close(plain_logits(loaded, item.ids), plain_logits(model, item.ids))
    assert output_path(loaded) == output_path(model)
    return "ok"


def attempt(check: Callable[..., str], model: Any, *folder: Path) -> str:
    try:
        return check(model, *folder)
    except UserError as error:
        # transformers adds a list of all classes.
        reason = str(error).partition("Model type should be one of")[0].strip()
        return f"refused: {reason.replace(str(folder[0]), 'that was saved') if folder else reason}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.models) for name in small.NAMES]
)
def test_numbers_of_plain_transformers(name: str, tmp_path: Path) -> None:
    if name in small.NOT_BUILT:
        results[name] = {"class": small.NAMES[name], "not built": small.NOT_BUILT[name]}
        pytest.skip(small.NOT_BUILT[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = small.build(name)
        results[name] = result = {"class": type(model).__name__}
        result["scoring"] = attempt(scoring, model)
        if result["scoring"].startswith("refused"):
            result |= dict.fromkeys(COLUMNS, result["scoring"])
            return
        for check in (training, packing, sharing, generation):
            result[check.__name__] = attempt(check, model)
        result["saving"] = attempt(saving, model, tmp_path)
        result["lora"] = attempt(lora, model)


@pytest.mark.models
def test_record() -> None:
    """Write the record that docs/models.md is made from, after a run of all classes."""
    if len(results) < len(small.NAMES):
        pytest.skip("only some classes were run")
    RECORD.parent.mkdir(exist_ok=True)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    RECORD.write_text(json.dumps({"versions": versions, "models": results}, indent=1) + "\n", encoding="utf-8")

"""Probes equal plain computations: shared prompts equal single rows, generation equals Hugging Face generate()."""

import numpy as np
import pytest
import tiny
import torch
import transformers

from expunge.data.templates import Encoded
from expunge.probes import scoring
from expunge.probes.generation import generate, generate_from
from expunge.probes.scoring import score


def questions(num_prompts: int, num_answers: int, seed: int = 0) -> list[Encoded]:
    """Return several answers of different lengths to each prompt, shuffled, with one item twice."""
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(num_prompts):
        prompt = rng.integers(3, tiny.VOCAB, size=int(rng.integers(2, 9))).tolist()
        for _ in range(num_answers):
            answer = rng.integers(3, tiny.VOCAB, size=int(rng.integers(1, 7))).tolist()
            items.append(Encoded(ids=(*prompt, *answer, 2), answer_start=len(prompt)))
    items.append(items[0])
    return [items[i] for i in rng.permutation(len(items))]


@pytest.mark.parametrize("architecture", ["llama", "granite", "gpt2"])
@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_shared_prompts_equal_single_rows(architecture, batch_tokens, monkeypatch):
    monkeypatch.setattr(scoring, "_can_share_prompts", lambda *_: True)  # no fallback to single rows
    model, items = tiny.model(architecture), questions(5, 4)
    single = score(model, items, pad_id=0, batch_tokens=batch_tokens, share_prompts=False)
    shared = score(model, items, pad_id=0, batch_tokens=batch_tokens)
    assert [len(values) for values in shared] == [item.num_answer for item in items]
    for values, expected in zip(shared, single, strict=True):
        assert values.logp == pytest.approx(expected.logp, abs=2e-5)


def items_with_common_prefixes(num_prompts: int, num_answers: int) -> list[Encoded]:
    """Return answers of two distinct tokens only, so that many share a prefix and some are prefixes of others."""
    rng = np.random.default_rng(1)
    items = {}
    for _ in range(num_prompts):
        prompt = rng.integers(3, tiny.VOCAB, size=3).tolist()
        for _ in range(num_answers):
            ids = (*prompt, *rng.integers(3, 5, size=int(rng.integers(1, 6))).tolist(), 2)
            items[ids] = Encoded(ids=ids, answer_start=3)
    return list(items.values())


@pytest.mark.parametrize("limit", [8, 1024])
def test_answers_with_common_prefixes_equal_single_rows(limit, monkeypatch):
    """Log-probabilities, hits, moments and hidden states; with the small limit, trees are split over several rows."""
    monkeypatch.setattr(scoring, "_can_share_prompts", lambda *_: True)
    monkeypatch.setattr(scoring, "MAX_ROW", limit)
    model, items = tiny.model(), items_with_common_prefixes(3, 9)
    detail = [i % 2 == 0 for i in range(len(items))]
    options = {"pad_id": 0, "batch_tokens": 60, "detail": detail, "hidden": True}
    single = score(model, items, **options, share_prompts=False)
    for values, expected in zip(score(model, items, **options), single, strict=True):
        assert values.logp == pytest.approx(expected.logp, abs=2e-5)
        assert values.hidden == pytest.approx(expected.hidden, abs=2e-5)
        for name in ("top1", "mean", "variance"):
            column, expected_column = getattr(values, name), getattr(expected, name)
            if expected_column is None:
                assert column is None
            else:
                assert column == pytest.approx(expected_column, abs=2e-4)


def test_each_prefix_is_computed_once(monkeypatch):
    """The number of tokens that the model processes is the number of distinct prefixes without the last tokens."""
    monkeypatch.setattr(scoring, "_can_share_prompts", lambda *_: True)
    model, items = tiny.model(), items_with_common_prefixes(1, 12)
    tokens: list[int] = []
    model.base_model.register_forward_hook(
        lambda module, args, kwargs, out: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    score(model, items, pad_id=0, batch_tokens=4096)
    assert sum(tokens) == len({item.ids[:end] for item in items for end in range(1, len(item.ids))})


def test_sharing_reduces_the_number_of_tokens():
    """20 rows of 5 prompts: the model processes fewer tokens than the rows have, including the trial on one tree."""
    model, items = tiny.model(), questions(5, 4)
    tokens: list[int] = []
    model.base_model.register_forward_hook(
        lambda module, args, kwargs, out: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    score(model, items, pad_id=0, batch_tokens=4096, share_prompts=False)
    num_single = sum(tokens)
    tokens.clear()
    score(model, items, pad_id=0, batch_tokens=4096)
    assert sum(tokens) < num_single


def test_model_that_cannot_share_prompts_falls_back_to_single_rows():
    """Gemma 2 has sliding windows (here of 4 tokens), which the tree mask does not respect.

    The first two items fit into the window, so a trial on the shortest rows would not detect it.
    """
    short = [Encoded(ids=(5, 6, answer, 2), answer_start=2) for answer in (7, 8)]
    model, items = tiny.model("gemma2"), short + questions(4, 3)
    shared = score(model, items, pad_id=0, batch_tokens=200)
    single = score(model, items, pad_id=0, batch_tokens=200, share_prompts=False)
    for values, expected in zip(shared, single, strict=True):
        assert values.logp == pytest.approx(expected.logp, abs=2e-5)


def test_scores_are_in_order_and_the_mode_is_restored():
    model, items = tiny.model(), tiny.rows(6)
    model.train()
    values = score(model, items, pad_id=0, batch_tokens=30)
    assert model.training
    expected = tiny.step(model.eval(), {"forget": items}).token_logp("forget").detach().numpy()
    assert np.concatenate([value.logp for value in values]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("batch_tokens", [1, 90, 4096])
def test_greedy_generation_equals_hugging_face(architecture, batch_tokens):
    """Batches from which finished rows are removed equal one prompt at a time through generate().

    A third of the vocabulary ends an answer, so that rows end at different times, some immediately.
    """
    model = tiny.model(architecture)
    prompts = [list(item.ids[:-1]) for item in tiny.rows(9, seed=5)]
    ends = list(range(2, tiny.VOCAB, 3))
    answers = generate(model, prompts, max_new_tokens=[12] * 9, eos_ids=ends, pad_id=0, batch_tokens=batch_tokens)
    expected = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=ends, pad_token_id=0
        )
        answer = out[0, len(prompt) :].tolist()
        expected.append(answer[:-1] if answer[-1] in ends else answer)
    assert answers == expected
    assert len({len(answer) for answer in expected}) > 2


def test_generation_budgets_and_context():
    """Each prompt has its own budget, limited by the context (64); a prompt that fills the context gives None."""
    model = tiny.model()
    prompts = [[5] * 4, [6] * 60, [7] * 64, [8] * 4]
    answers = generate(model, prompts, max_new_tokens=[3, 9, 9, 0], eos_ids=[], pad_id=0, batch_tokens=4096)
    assert [None if answer is None else len(answer) for answer in answers] == [3, 4, None, 0]


def test_known_starts_do_not_change_answers_and_save_forward_passes():
    """Starts of every length, including full answers with their end; one prompt fills the context."""
    model = tiny.model()
    prompts = [list(item.ids[:-1]) for item in tiny.rows(9, seed=5)] + [[6] * 60, [7] * 64, [8] * 4]
    settings = {"max_new_tokens": [12] * 11 + [0], "eos_ids": list(range(2, tiny.VOCAB, 3)), "pad_id": 0}
    expected = generate(model, prompts, batch_tokens=4096, **settings)
    full = [answer or [] for answer in expected]
    for share in (0, 0.5, 1):
        starts = [answer[: round(share * len(answer))] for answer in full]
        assert generate_from(model, prompts, starts, batch_tokens=90, **settings) == expected
    with_ends = [[*answer, 2] if 0 < len(answer) < 4 else answer for answer in full]
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert generate_from(model, prompts, with_ends, batch_tokens=4096, **settings) == expected
    assert len(calls) < 12


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "phi3", "olmo3", "recurrent_gemma"])
def test_scores_do_not_depend_on_neighbours(kind):
    """With a sliding window shorter than the row, whatever shares its prompt or its batch."""
    settings = {"sliding_window": 4, "attention_window_size": 4, "head_dim": 6, "pad_token_id": 0}
    if kind == "recurrent_gemma":
        settings["block_types"] = ("recurrent", "attention")
    config = transformers.AutoConfig.for_model(kind, **{**tiny._LLAMA, **settings, "vocab_size": tiny.VOCAB})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    rng = np.random.default_rng(2)
    prompt, answer = rng.integers(3, tiny.VOCAB, 5).tolist(), rng.integers(3, tiny.VOCAB, 20).tolist()
    row = Encoded((*prompt, *answer), 5)
    short = [Encoded((*prompt, token, 2), 5) for token in (7, 8, 9)]
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    expected = logp[range(4, 24), answer].numpy()
    for neighbours in ([], short, short[:1], [Encoded((*prompt, *answer[:9], 2), 5)], questions(3, 3)):
        values = score(model, [row, *neighbours], pad_id=0, batch_tokens=4096)[0]
        assert values.logp == pytest.approx(expected, abs=1e-4)

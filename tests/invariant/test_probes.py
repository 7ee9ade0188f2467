"""Probes against the plainest way to get the same: shared prompts against rows alone, ours against generate()."""

import numpy as np
import pytest
import tiny
import torch

from expunge.data.templates import Encoded
from expunge.probes import scoring
from expunge.probes.generation import generate, generate_from
from expunge.probes.scoring import score


def questions(num_prompts: int, num_answers: int, seed: int = 0) -> list[Encoded]:
    """Several answers of different lengths to each prompt, in mixed order, with one item twice."""
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
def test_shared_prompts_equal_rows_alone(architecture, batch_tokens, monkeypatch):
    monkeypatch.setattr(scoring, "_can_share_prompts", lambda *_: True)  # no falling back to rows alone
    model, items = tiny.model(architecture), questions(5, 4)
    alone = score(model, items, pad_id=0, batch_tokens=batch_tokens, share_prompts=False)
    shared = score(model, items, pad_id=0, batch_tokens=batch_tokens)
    assert [len(values) for values in shared] == [item.num_answer for item in items]
    for one, other in zip(shared, alone, strict=True):
        assert one.logp == pytest.approx(other.logp, abs=2e-5)


def alike(num_prompts: int, num_answers: int) -> list[Encoded]:
    """Answers over two tokens only, so that many begin alike and some are the beginning of others."""
    rng = np.random.default_rng(1)
    items = {}
    for _ in range(num_prompts):
        prompt = rng.integers(3, tiny.VOCAB, size=3).tolist()
        for _ in range(num_answers):
            ids = (*prompt, *rng.integers(3, 5, size=int(rng.integers(1, 6))).tolist(), 2)
            items[ids] = Encoded(ids=ids, answer_start=3)
    return list(items.values())


@pytest.mark.parametrize("limit", [8, 1024])
def test_answers_that_begin_alike_equal_rows_alone(limit, monkeypatch):
    """Log-probabilities, hits, moments and hidden states; with a small limit a prompt's answers take several rows."""
    monkeypatch.setattr(scoring, "_can_share_prompts", lambda *_: True)
    monkeypatch.setattr(scoring, "MAX_ROW", limit)
    model, items = tiny.model(), alike(3, 9)
    detail = [i % 2 == 0 for i in range(len(items))]
    options = {"pad_id": 0, "batch_tokens": 60, "detail": detail, "hidden": True}
    alone = score(model, items, **options, share_prompts=False)
    for one, other in zip(score(model, items, **options), alone, strict=True):
        assert one.logp == pytest.approx(other.logp, abs=2e-5)
        assert one.hidden == pytest.approx(other.hidden, abs=2e-5)
        for name in ("top1", "mean", "variance"):
            got, expected = getattr(one, name), getattr(other, name)
            assert got is None if expected is None else got == pytest.approx(expected, abs=2e-4)


def test_each_beginning_is_computed_once(monkeypatch):
    """The tokens that pass through the model are the distinct beginnings of the rows without their last tokens."""
    monkeypatch.setattr(scoring, "_can_share_prompts", lambda *_: True)
    model, items = tiny.model(), alike(1, 12)
    tokens: list[int] = []
    model.base_model.register_forward_hook(
        lambda module, args, kwargs, out: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    score(model, items, pad_id=0, batch_tokens=4096)
    assert sum(tokens) == len({item.ids[:end] for item in items for end in range(1, len(item.ids))})


def test_sharing_is_really_used():
    """20 rows of 5 prompts: fewer tokens pass through the model than the rows have, and the trial costs one group."""
    model, items = tiny.model(), questions(5, 4)
    tokens: list[int] = []
    model.base_model.register_forward_hook(
        lambda module, args, kwargs, out: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    score(model, items, pad_id=0, batch_tokens=4096, share_prompts=False)
    apart = sum(tokens)
    tokens.clear()
    score(model, items, pad_id=0, batch_tokens=4096)
    assert sum(tokens) < apart


def test_model_that_cannot_share_falls_back():
    """Gemma 2 has sliding windows (here of 4 tokens), which a mask of branches does not respect.

    The first two items stay inside the window, so a trial on the shortest rows alone would be passed.
    """
    short = [Encoded(ids=(5, 6, answer, 2), answer_start=2) for answer in (7, 8)]
    model, items = tiny.model("gemma2"), short + questions(4, 3)
    shared = score(model, items, pad_id=0, batch_tokens=200)
    alone = score(model, items, pad_id=0, batch_tokens=200, share_prompts=False)
    for one, other in zip(shared, alone, strict=True):
        assert one.logp == pytest.approx(other.logp, abs=2e-5)


def test_score_is_in_order_and_puts_the_mode_back():
    model, items = tiny.model(), tiny.rows(6)
    model.train()
    values = score(model, items, pad_id=0, batch_tokens=30)
    assert model.training
    expected = tiny.step(model.eval(), {"forget": items}).token_logp("forget").detach().numpy()
    assert np.concatenate([value.logp for value in values]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("batch_tokens", [1, 90, 4096])
def test_greedy_generation_equals_hugging_face(architecture, batch_tokens):
    """One prompt at a time through generate(), against batches from which finished rows are taken out.

    A third of the vocabulary ends an answer, so that rows end at different times, some of them at once.
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
    """Each prompt has a budget of its own, cut to the context (64); a prompt that fills the context gets None."""
    model = tiny.model()
    prompts = [[5] * 4, [6] * 60, [7] * 64, [8] * 4]
    answers = generate(model, prompts, max_new_tokens=[3, 9, 9, 0], eos_ids=[], pad_id=0, batch_tokens=4096)
    assert [None if answer is None else len(answer) for answer in answers] == [3, 4, None, 0]


def test_known_starts_change_no_answer_and_save_forward_passes():
    """Starts of every length, the whole answer with its end among them; one prompt ends where the context does."""
    model = tiny.model()
    prompts = [list(item.ids[:-1]) for item in tiny.rows(9, seed=5)] + [[6] * 60, [7] * 64, [8] * 4]
    settings = {"max_new_tokens": [12] * 11 + [0], "eos_ids": list(range(2, tiny.VOCAB, 3)), "pad_id": 0}
    plain = generate(model, prompts, batch_tokens=4096, **settings)
    whole = [answer or [] for answer in plain]
    for share in (0, 0.5, 1):
        starts = [answer[: round(share * len(answer))] for answer in whole]
        assert generate_from(model, prompts, starts, batch_tokens=90, **settings) == plain
    ended = [[*answer, 2] if 0 < len(answer) < 4 else answer for answer in whole]
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert generate_from(model, prompts, ended, batch_tokens=4096, **settings) == plain
    assert len(calls) < 12

"""Cached results equal computed ones, and a change of weights, tokens or settings is a cache miss."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from expunge.data.templates import Encoded
from expunge.modeling.load import model_hash
from expunge.probes import cache as cache_module
from expunge.probes.cache import ProbeCache
from expunge.probes.requests import TokenScores
from expunge.probes.scoring import score, token_values


def cached_scores(folder, model, items, detail=None):
    """Return scores through a cache, and the number of items that were computed."""
    computed = []

    def run(indices, detail):
        computed.extend(indices)
        return score(model, [items[i] for i in indices], detail=detail, pad_id=0, batch_tokens=4096)

    keys = [ProbeCache.key(item.ids, item.answer_start) for item in items]
    scores = ProbeCache(folder, [model_hash(model)]).scores(keys, detail or [False] * len(items), run)
    return scores, len(computed)


def test_second_call_computes_nothing_and_returns_equal_scores(tmp_path):
    model, items = tiny.model(), tiny.rows(6)
    first, num_first = cached_scores(tmp_path, model, items, [True] * 6)
    second, num_second = cached_scores(tmp_path, model, items, [True] * 6)
    assert (num_first, num_second) == (6, 0)
    for computed, cached in zip(first, second, strict=True):
        for name in ("logp", "top1", "mean", "variance"):
            assert np.array_equal(getattr(computed, name), getattr(cached, name)), name


def test_changed_weights_tokens_or_answer_starts_are_cache_misses(tmp_path):
    model, items = tiny.model(), tiny.rows(4)
    cached_scores(tmp_path, model, items)
    other_token = Encoded((*items[0].ids[:-2], items[0].ids[-2] ^ 1, items[0].ids[-1]), items[0].answer_start)
    other_start = Encoded(items[1].ids, items[1].answer_start + 1)
    assert cached_scores(tmp_path, model, [other_token, other_start, items[2]])[1] == 2
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    scores, num_computed = cached_scores(tmp_path, model, items)
    assert num_computed == 4
    assert scores[0].logp == pytest.approx(score(model, items, pad_id=0, batch_tokens=4096)[0].logp, abs=1e-6)


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_scores_cached_without_detail_are_computed_again_with_detail(tmp_path, monkeypatch, names):
    """Independent of which of the two cache files is read first."""
    order = iter(names)
    monkeypatch.setattr(cache_module.uuid, "uuid4", lambda: SimpleNamespace(hex=next(order)))
    model, items = tiny.model(), tiny.rows(4)
    cached_scores(tmp_path, model, items)
    scores, num_computed = cached_scores(tmp_path, model, items, [True, False, False, False])
    assert num_computed == 1
    assert [values.detailed for values in scores] == [True, False, False, False]
    assert cached_scores(tmp_path, model, items, [True, False, False, False])[1] == 0


def test_equal_items_are_computed_once_with_detail_if_any_needs_it(tmp_path):
    model, items = tiny.model(), tiny.rows(2)
    scores, num_computed = cached_scores(tmp_path, model, [items[0], items[0], items[1]], [False, True, False])
    assert num_computed == 2
    assert scores[0].detailed
    assert not scores[2].detailed


def test_generations_with_other_settings_are_cache_misses(tmp_path):
    cache, calls = ProbeCache(tmp_path, ["m"]), []

    def run(indices):
        calls.append(indices)
        return [[1, 2, 3] if index else None for index in indices]

    keys = [ProbeCache.key((5, 6), 20, 0.0, 0), ProbeCache.key((5, 6), 21, 0.0, 0)]
    assert cache.generations(keys, run) == [None, [1, 2, 3]]
    assert cache.generations(keys, run) == [None, [1, 2, 3]]
    more_keys = [ProbeCache.key((5, 6), 20, 0.7, 1), *keys]
    assert cache.generations(more_keys, run) == [None, None, [1, 2, 3]]
    assert calls == [[0, 1], [0]]


def test_without_a_folder_nothing_is_cached():
    cache, calls = ProbeCache(None, ["m"]), []

    def run(indices, detail):
        calls.append(len(indices))
        return [TokenScores(np.zeros(1, np.float32)) for _ in indices]

    for _ in range(2):
        cache.scores(["a", "b"], [False, False], run)
    assert calls == [2, 2]


def test_moments_equal_plain_sums_in_float64():
    """mu = sum_z p(z) log p(z), variance = sum_z p(z) (log p(z) - mu)^2, hit = the label is the argmax."""
    model, items = tiny.model(), tiny.rows(5)
    scores = score(model, items, pad_id=0, batch_tokens=4096, detail=[True] * 5)
    for item, values in zip(items, scores, strict=True):
        logits = model(torch.tensor([item.ids])).logits[0, item.answer_start - 1 : -1].double()
        logp = logits - logits.logsumexp(-1, keepdim=True)
        mean = (logp.exp() * logp).sum(-1)
        variance = (logp.exp() * (logp - mean[:, None]) ** 2).sum(-1)
        labels = torch.tensor(item.ids[item.answer_start :])
        assert values.logp == pytest.approx(logp.gather(1, labels[:, None])[:, 0].detach().numpy(), abs=2e-5)
        assert values.mean == pytest.approx(mean.detach().numpy(), abs=2e-5)
        assert values.variance == pytest.approx(variance.detach().numpy(), abs=2e-4)
        assert values.top1.tolist() == (logp.argmax(-1) == labels).tolist()


def test_impossible_tokens_contribute_zero_to_the_moments(monkeypatch):
    """Two tokens of probability 1/2, all others impossible: mu = -ln 2, variance 0, not NaN."""
    model = tiny.model()
    logits = torch.full((3, model.config.vocab_size), -torch.inf)
    logits[:, 3:5] = 0.0
    monkeypatch.setattr("expunge.probes.scoring.head_of", lambda _: lambda hidden: logits)
    values = token_values(model, torch.zeros(3, 8), np.array([3, 4, 3]), np.array([True, True, True]))
    assert values[0] == pytest.approx(-np.log(2), abs=1e-6)
    assert values[2] == pytest.approx(-np.log(2), abs=1e-6)
    assert values[3] == pytest.approx(0.0, abs=1e-6)


def test_hidden_states_are_the_input_of_the_output_layer():
    """Projected, they give the log-probabilities; they are returned on request only."""
    model, items = tiny.model(), [*tiny.rows(3), *tiny.rows(3)]
    scores = score(model, items, pad_id=0, batch_tokens=4096, hidden=True)
    for item, values in zip(items, scores, strict=True):
        assert values.hidden.shape == (item.num_answer, model.config.hidden_size)
        logp = model.lm_head(torch.from_numpy(values.hidden)).log_softmax(-1)
        label_logp = logp.gather(1, torch.tensor(item.ids[item.answer_start :])[:, None])[:, 0]
        assert values.logp == pytest.approx(label_logp.detach().numpy(), abs=2e-5)
    assert score(model, items, pad_id=0, batch_tokens=4096)[0].hidden is None

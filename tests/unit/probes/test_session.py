"""A session computes each request once, caches it, and leaves out texts longer than the model's context."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from expunge.config.recipe import Prompt, Scratch
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.probes.cache import ProbeCache
from expunge.probes.requests import GenerationRequest, ScoreRequest
from expunge.probes.session import Session, end_ids

LONG = "word " * 200


@pytest.fixture(scope="module")
def model_and_template():
    tokenizer = train_tokenizer(["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)
    model = build_scratch(scratch, tokenizer, seed=0).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, Template(tokenizer, Prompt(), 16)


@pytest.fixture
def session(model_and_template, tmp_path):
    model, template = model_and_template
    sets = Sets("test", RowSet("forget", ()), None)
    return Session(model, sets, template, 4096, ProbeCache(tmp_path, ["m"]), "model")


def generation_request(index, question="Who?", **settings):
    return GenerationRequest("s", index, question, 8, **settings)


def test_scores_are_keyed_by_request_and_omit_too_long_texts(session):
    """The template's limit of 16 tokens is for training only; texts up to the model's context of 64 are scored."""
    requests = [
        ScoreRequest("s", 0, "answer", "Who wrote it?", "Nobody, in Bern she was born."),
        ScoreRequest("s", 1, "answer", LONG, "Nobody."),
        ScoreRequest("s", 2, "answer", "Who", " wrote it", raw=True, detail=True),
    ]
    scores = session.score(requests)
    assert set(scores) == {("s", 0, "answer"), ("s", 2, "answer")}
    assert scores["s", 2, "answer"].detailed
    assert len(scores["s", 2, "answer"]) == len(session.template.encode_raw("Who", " wrote it").ids) - 2
    with torch.no_grad():
        logits = session.model(torch.tensor([session.template.encode_raw("Who", " wrote it").ids])).logits[0]
    encoded = session.template.encode_raw("Who", " wrote it")
    expected = logits.log_softmax(-1)[encoded.answer_start - 1, encoded.ids[encoded.answer_start]]
    assert scores["s", 2, "answer"].logp[0] == pytest.approx(expected.item(), abs=1e-5)


def test_generation_requests_of_all_kinds_in_one_call(session):
    """Two temperatures in one call; a sample depends on the seed of its request alone."""
    requests = [
        generation_request(0),
        generation_request(1, question=LONG),
        generation_request(2, temperature=1.0, seed=1),
        generation_request(3, temperature=1.0, seed=2),
        generation_request(4, temperature=1.0, seed=1),
        generation_request(0, what="with a prefix", prefix="She was born in"),
    ]
    answers = session.generate(requests)
    assert ("s", 1, "answer") not in answers
    assert answers["s", 2, "answer"] == answers["s", 4, "answer"] != answers["s", 3, "answer"]
    single = session.generate([generation_request(0)])
    assert single["s", 0, "answer"] == answers["s", 0, "answer"]
    assert ("s", 0, "with a prefix") in answers


def test_cached_requests_do_not_run_the_model(session, monkeypatch):
    score_requests = [ScoreRequest("s", i, "answer", "Who?", f"Nobody{'.' * i}") for i in range(3)]
    generation_requests = [generation_request(0), generation_request(1, temperature=0.5, seed=3)]
    scores, answers = session.score(score_requests), session.generate(generation_requests)
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_, **__: pytest.fail("the model was run again"))
    cached = session.score(score_requests[::-1])
    assert all(np.array_equal(scores[key].logp, cached[key].logp) for key in scores)
    assert session.generate(generation_requests) == answers


def memorised(session, question, answer):
    """Return a copy of the session's model that was trained to memorise one answer."""
    model, row = copy.deepcopy(session.model), session.template.without_limit().encode(question, answer)
    labels = torch.tensor([[-100] * row.answer_start + list(row.ids[row.answer_start :])])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=torch.tensor([row.ids]), labels=labels).loss.backward()
        optimizer.step()
    return model


def test_a_draft_does_not_change_the_answer(session):
    """Drafts: equal to the answer, with a common beginning, without a common beginning, and not scored."""
    model = memorised(session, "Who wrote it?", "Nobody.")
    session = replace(session, model=model, cache=ProbeCache(None, []))
    drafts = ["Nobody.", "Nobody. In Bern.", "She was born.", "Nobody."]
    requests = [generation_request(i, "Who wrote it?", draft=draft) for i, draft in enumerate(drafts)]
    scores = session.score([ScoreRequest(*r.key, r.question, r.draft, detail=True) for r in requests[:3]])
    without_drafts = session.generate([replace(r, draft="") for r in requests])
    assert set(without_drafts.values()) == {"Nobody."}
    assert session.generate(requests, scores) == without_drafts
    prompt = session.template.prompt_ids("Who wrote it?")
    starts = [session._matching_draft(r, prompt, scores) for r in requests]
    row = session.template.without_limit().encode("Who wrote it?", "Nobody.")
    assert starts[0] == list(row.targets)
    assert starts[1] == list(row.targets[:-1])
    assert starts[2:] == [[], []]
    # A prompt other than that of the scored draft.
    assert not session._matching_draft(requests[0], prompt[:-1], scores)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert session.generate(requests[:1], scores) == {requests[0].key: "Nobody."}
    assert not calls


def test_gradient_norms_are_keyed_by_request_and_omit_too_long_texts(session):
    requests = [ScoreRequest("s", i, "answer", q, "Nobody.") for i, q in enumerate(["Who wrote it?", LONG, "Where?"])]
    norms = session.gradient_norms(requests)
    assert set(norms) == {("s", 0, "answer"), ("s", 2, "answer")}
    assert norms["s", 0, "answer"] != norms["s", 2, "answer"]
    assert session.gradient_norms(requests[2:]) == {("s", 2, "answer"): norms["s", 2, "answer"]}


@pytest.mark.parametrize(("extra", "expected"), [(0, [0, 2]), ([0, 5], [0, 2, 5]), (None, [2]), (2, [2])])
def test_end_tokens_of_tokenizer_and_generation_config(model_and_template, extra, expected):
    """Id 0 is an end token like any other."""
    model, template = model_and_template
    model = copy.deepcopy(model)
    model.generation_config.eos_token_id = extra
    assert end_ids(model, template) == expected

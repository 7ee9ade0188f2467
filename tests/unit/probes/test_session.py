"""A session asks what it is told to, once, and leaves out what does not fit the model's context."""

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
from expunge.probes.session import Session

LONG = "word " * 200


@pytest.fixture(scope="module")
def parts():
    tokenizer = train_tokenizer(["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)
    model = build_scratch(scratch, tokenizer, seed=0).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, Template(tokenizer, Prompt(), 16)


@pytest.fixture
def session(parts, tmp_path):
    model, template = parts
    sets = Sets("made", RowSet("forget", ()), None)
    return Session(model, sets, template, 4096, ProbeCache(tmp_path, ["m"]), "it")


def asked(index, question="Who?", **settings):
    return GenerationRequest("s", index, question, 8, **settings)


def test_scores_are_filed_by_request_and_too_long_texts_have_none(session):
    """16 tokens are the template's limit for training; measured is all that fits the model's 64."""
    requests = [
        ScoreRequest("s", 0, "answer", "Who wrote it?", "Nobody, in Bern she was born."),
        ScoreRequest("s", 1, "answer", LONG, "Nobody."),
        ScoreRequest("s", 2, "answer", "Who", " wrote it", raw=True, detail=True),
    ]
    found = session.score(requests)
    assert set(found) == {("s", 0, "answer"), ("s", 2, "answer")}
    assert found["s", 2, "answer"].detailed
    assert len(found["s", 2, "answer"]) == len(session.template.encode_raw("Who", " wrote it").ids) - 2
    with torch.no_grad():
        logits = session.model(torch.tensor([session.template.encode_raw("Who", " wrote it").ids])).logits[0]
    first = session.template.encode_raw("Who", " wrote it")
    expected = logits.log_softmax(-1)[first.answer_start - 1, first.ids[first.answer_start]]
    assert found["s", 2, "answer"].logp[0] == pytest.approx(expected.item(), abs=1e-5)


def test_generation_of_each_kind_at_once(session):
    """Two temperatures in one call; draws depend on the seed of each answer alone."""
    requests = [
        asked(0),
        asked(1, question=LONG),
        asked(2, temperature=1.0, seed=1),
        asked(3, temperature=1.0, seed=2),
        asked(4, temperature=1.0, seed=1),
        asked(0, what="with a prefix", prefix="She was born in"),
    ]
    found = session.generate(requests)
    assert ("s", 1, "answer") not in found
    assert found["s", 2, "answer"] == found["s", 4, "answer"] != found["s", 3, "answer"]
    alone = session.generate([asked(0)])
    assert alone["s", 0, "answer"] == found["s", 0, "answer"]
    assert ("s", 0, "with a prefix") in found


def test_what_was_asked_before_is_not_computed_again(session, monkeypatch):
    requests = [ScoreRequest("s", i, "answer", "Who?", f"Nobody{'.' * i}") for i in range(3)]
    before, said = session.score(requests), session.generate([asked(0), asked(1, temperature=0.5, seed=3)])
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_, **__: pytest.fail("the model was run again"))
    after = session.score(requests[::-1])
    assert all(np.array_equal(before[key].logp, after[key].logp) for key in before)
    assert session.generate([asked(0), asked(1, temperature=0.5, seed=3)]) == said


def taught(session, question, answer):
    """The session's model after it has learnt one answer by heart."""
    model, row = copy.deepcopy(session.model), session.template.without_limit().encode(question, answer)
    labels = torch.tensor([[-100] * row.answer_start + list(row.ids[row.answer_start :])])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=torch.tensor([row.ids]), labels=labels).loss.backward()
        optimizer.step()
    return model


def test_a_draft_changes_no_answer(session):
    """A draft that the model says, one that it leaves after some tokens, one that it never says, one not scored."""
    model = taught(session, "Who wrote it?", "Nobody.")
    session = replace(session, model=model, cache=ProbeCache(None, []))
    drafts = ["Nobody.", "Nobody. In Bern.", "She was born.", "Nobody."]
    requests = [asked(i, "Who wrote it?", draft=draft) for i, draft in enumerate(drafts)]
    scores = session.score([ScoreRequest(*r.key, r.question, r.draft, detail=True) for r in requests[:3]])
    alone = session.generate([replace(r, draft="") for r in requests])
    assert set(alone.values()) == {"Nobody."}
    assert session.generate(requests, scores) == alone
    prompt = session.template.prompt_ids("Who wrote it?")
    starts = [session._matching_draft(r, prompt, scores) for r in requests]
    row = session.template.without_limit().encode("Who wrote it?", "Nobody.")
    assert starts[0] == list(row.targets)
    assert starts[1] == list(row.targets[:-1])
    assert starts[2:] == [[], []]
    # A prompt that is not the one before the scored draft.
    assert not session._matching_draft(requests[0], prompt[:-1], scores)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert session.generate(requests[:1], scores) == {requests[0].key: "Nobody."}
    assert not calls


def test_gradient_norms_are_filed_by_request_and_too_long_texts_have_none(session):
    requests = [ScoreRequest("s", i, "answer", q, "Nobody.") for i, q in enumerate(["Who wrote it?", LONG, "Where?"])]
    norms = session.gradient_norms(requests)
    assert set(norms) == {("s", 0, "answer"), ("s", 2, "answer")}
    assert norms["s", 0, "answer"] != norms["s", 2, "answer"]
    assert session.gradient_norms(requests[2:]) == {("s", 2, "answer"): norms["s", 2, "answer"]}

"""Decoding from the difference of two models."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from expunge.config.recipe import Prompt, Scratch
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.probes.cache import ProbeCache
from expunge.probes.contrast import contrast_scores, generate_contrast
from expunge.probes.requests import GenerationRequest
from expunge.probes.session import Session, end_ids

QUESTIONS = ["Who?", "Where was she born?", "Who wrote it? Nobody.", "In Bern"]


@pytest.fixture(scope="module")
def sessions():
    tokenizer = train_tokenizer(["Where was she born? In Bern.", "Who wrote it? Nobody."] * 20, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)

    def session(seed):
        model = build_scratch(scratch, tokenizer, seed=seed).eval()
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        sets = Sets("test", RowSet("forget", ()), None)
        return Session(model, sets, Template(tokenizer, Prompt(), 64), 4096, ProbeCache(None, None), f"model {seed}")

    return session(0), session(1)


REQUESTS = [GenerationRequest("s", index, question, 8) for index, question in enumerate(QUESTIONS)]


def test_scores_by_hand():
    """t = (.6, .3, .1), u = (.8, .1, .1): with gamma 2, p_t^2 / p_u = .45, .9, .1, so the second token wins."""
    t, u = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.8, 0.1, 0.1]]).log()
    assert contrast_scores(t, u, 2.0, 5.0).exp() == pytest.approx(torch.tensor([[0.45, 0.9, 0.1]]), abs=1e-6)
    smaller = torch.tensor([[0.6**1.5 / 0.8**0.5, 0.3**1.5 / 0.1**0.5, 0.1]])
    assert torch.allclose(contrast_scores(t, u, 1.5, 5.0).exp(), smaller)
    assert torch.allclose(contrast_scores(t, t, 3.0, 5.0), t)
    # Logits count up to a constant.
    assert torch.allclose(contrast_scores(t + 3, u - 2, 2.0, 5.0), contrast_scores(t, u, 2.0, 5.0))


def test_the_mask_excludes_what_the_target_finds_implausible():
    """log .6 - log .1 = 1.79: a cutoff of 1.8 keeps the last token, 1.79 does not; log 2 = .69 splits the others."""
    t, u = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.9, 0.0999, 0.0001]]).log()
    assert contrast_scores(t, u, 2.0, 1.8).argmax().item() == 2
    masked = contrast_scores(t, u, 2.0, 1.79)
    assert masked[0, 2] == -torch.inf
    assert masked.argmax().item() == 1
    assert contrast_scores(t, u, 2.0, 0.69).argmax().item() == 0


def test_a_model_and_itself_decode_greedily(sessions):
    target, _ = sessions
    assert generate_contrast(target, target, REQUESTS, gamma=2.0, cutoff=5.0) == target.generate(REQUESTS)
    assert len(set(target.generate(REQUESTS).values())) > 2


def test_gamma_one_is_the_first_model_alone(sessions):
    target, other = sessions
    assert generate_contrast(target, other, REQUESTS, gamma=1.0, cutoff=5.0) == target.generate(REQUESTS)
    assert target.generate(REQUESTS) != other.generate(REQUESTS)


@torch.no_grad()
def test_cached_batches_are_those_of_one_forward_pass_after_another(sessions):
    target, other = sessions
    answers = generate_contrast(target, other, REQUESTS, gamma=2.0, cutoff=5.0)
    for request in REQUESTS:
        ids = list(target.prompt_ids(request))
        start = len(ids)
        while len(ids) - start < 8:
            t, u = (s.model(torch.tensor([ids])).logits[0, -1] for s in sessions)
            token = int(contrast_scores(t, u, 2.0, 5.0).argmax())
            if token in end_ids(target.model, target.template):
                break
            ids.append(token)
        assert answers[request.key] == target.template.decode(ids[start:])
    assert answers != target.generate(REQUESTS)


def test_other_vocabularies_and_samples_are_rejected(sessions):
    target, other = sessions
    config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(vocab_size=7))
    small = replace(other, model=SimpleNamespace(config=config))
    with pytest.raises(IncompatibleError, match="vocabulary of 290 tokens and model 1 one of 7"):
        generate_contrast(target, small, REQUESTS, gamma=2.0, cutoff=5.0)
    with pytest.raises(ValueError, match="greedy"):
        generate_contrast(target, other, [replace(REQUESTS[0], temperature=1.0)], gamma=2.0, cutoff=5.0)

"""Soft prompt: vectors act as embeddings, raise what they are fitted on, and leave the model as it is."""

import numpy as np
import pytest
import torch
from tiny_arms import make_arm, make_model, make_sets, make_tokenizer, without_groups

from expunge.audits.soft_prompt import SoftPrompt, answer_probabilities, insert, question_start, with_vectors
from expunge.data.sets import Row, RowSet, Sets
from expunge.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def arm(tokenizer):
    return make_arm("unlearned", {"unlearned": lambda: make_model(tokenizer, 0)}, make_sets(2), tokenizer)


SMALL = SoftPrompt(vectors=4, steps=30, lr=0.1, batch_size=3)


def scores(attempt):
    return np.array([row["score"] for row in attempt.rows])


def test_vectors_replace_embeddings(arm):
    """Vectors that equal the embeddings of tokens give the logits of those tokens."""
    model, size = arm.model, arm.model.config.vocab_size
    tokens = [7, 30, 12]
    prompt = model.get_input_embeddings().weight.detach()[tokens]
    with torch.no_grad(), insert(model, prompt):
        actual = model(torch.tensor([[5, size, size + 1, size + 2, 9]])).logits
    with torch.no_grad():
        expected = model(torch.tensor([[5, *tokens, 9]])).logits
    assert torch.allclose(actual, expected, atol=1e-6)
    with pytest.raises(IndexError):
        model(torch.tensor([[size]]))


def test_scores_with_vectors_are_those_of_the_tokens(arm):
    """Through the project's scoring path, in one batch with rows of other lengths."""
    model, rows = arm.model, arm.sets.forget.rows
    encode = arm.template.encode
    tokens = [7, 30, 12]
    prompt = model.get_input_embeddings().weight.detach()[tokens]
    items = [encode(row.question, row.answer) for row in rows]
    actual = answer_probabilities(arm, [with_vectors(item, model, 2, 3) for item in items], prompt)
    for item, value in zip(items, actual, strict=True):
        ids = (*item.ids[:2], *tokens, *item.ids[2:])
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        start = item.answer_start + 3
        mean = np.mean([float(logp[i - 1, ids[i]]) for i in range(start, len(ids))])
        assert value == pytest.approx(np.exp(mean), rel=1e-4)


def test_vectors_are_placed_after_the_text_before_the_question(arm):
    start = question_start(arm.template, arm.sets.forget.rows)
    text = arm.template.tokenizer.decode(arm.template.prompt_ids("Why?")[:start])
    assert "Why" not in text
    assert text.strip().endswith("Question:")


def test_attack_raises_what_it_is_fitted_on_and_leaves_the_weights(arm):
    saved = {name: tensor.clone() for name, tensor in arm.model.state_dict().items()}
    before = scores(SMALL.attack(arm, "before")[0])
    attempt = SMALL.attack(arm, "universal")[0]
    assert attempt.facts["fitted"] > 2 * before.mean()
    assert [row["id"] for row in attempt.rows] == [row.id for row in arm.sets.forget]
    assert attempt.cost.steps == 2 * 30
    assert all(torch.equal(tensor, saved[name]) for name, tensor in arm.model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in arm.model.parameters())
    assert scores(SMALL.attack(arm, "before")[0]) == pytest.approx(before), "the embedding is the model's own again"
    assert scores(SMALL.attack(arm, "universal")[0]) == pytest.approx(scores(attempt)), "the seed decides"


def test_rows_are_scored_with_vectors_of_other_people(arm, monkeypatch):
    fitted = []
    fit = SoftPrompt._fit

    def record(self, arm, rows, seed):
        fitted.append({row.row for row in rows})
        return fit(self, arm, rows, seed)

    monkeypatch.setattr(SoftPrompt, "_fit", record)
    SMALL.attack(arm, "universal")
    people = {row.id: row.group for row in arm.sets.forget}
    assert sorted(people[row] for rows in fitted for row in rows) == sorted(people.values()), (
        "each person is fitted once"
    )
    assert all(len({people[row] for row in rows}) == 1 for rows in fitted)


def test_random_strings_are_listed_apart(arm):
    attempt = SMALL.attack(arm, "random strings")[0]
    assert attempt.measure == "probability of random strings"
    assert attempt.not_counted
    assert attempt.facts["fitted_random"] == pytest.approx(scores(attempt).mean()), "scored where they were fitted"
    untrained = SMALL.model_copy(update={"steps": 1, "lr": 1e-9}).attack(arm, "random strings")[0]
    assert scores(attempt).mean() > 2 * scores(untrained).mean()


def test_data_without_folds_or_questions():
    with pytest.raises(DataError, match="only one person"):
        SoftPrompt().stages(Sets("made", without_groups(make_sets().forget), None))
    with pytest.raises(DataError, match="has no questions"):
        SoftPrompt().stages(Sets("made", RowSet("forget", (Row("0", "", "Some text.", "g"),)), None))

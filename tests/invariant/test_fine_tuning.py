"""A copy is trained as the plain way does it, and stopping to measure it changes nothing."""

import copy

import pytest
import tiny
import torch

from expunge.audits.shared.fine_tuning import FineTuning, Recipe, encode_rows
from expunge.config.recipe import Lora
from expunge.data.sets import Row
from expunge.data.templates import Encoded
from expunge.errors import NumericalError
from expunge.modeling.adapters import add_lora


def tuned(model, rows, *stops, lr=1e-2, batch_size=4, seed=0):
    tuning = FineTuning(model, rows, Recipe(lr, batch_size, seed), pad_id=0, title="Training")
    for step in stops:
        tuning.train_until(step)
    return tuning


def fresh(architecture="llama"):
    return copy.deepcopy(tiny.model(architecture)).train()


def difference(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


def test_step_by_hand():
    """Cross-entropy over all learned tokens of the batch, gradients clipped to norm 1, AdamW without decay."""
    rows, ours, theirs = tiny.rows(4), fresh(), fresh()
    tuned(ours, rows, 2)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        losses = []
        for row in rows:
            logits = theirs(input_ids=torch.tensor([row.ids])).logits[0]
            predicted = logits[row.answer_start - 1 : -1].float()
            losses.append(torch.nn.functional.cross_entropy(predicted, torch.tensor(row.targets), reduction="none"))
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        assert torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0) > 1, "so that clipping is seen"
        optimizer.step()
    assert difference(ours, theirs) < 1e-4
    assert difference(ours, fresh()) > 1e-2


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_stopping_changes_nothing(architecture):
    """Also with the dropout of GPT-2, and with the other random numbers that measuring uses."""
    rows, once, twice = tiny.rows(10), fresh(architecture), fresh(architecture)
    tuned(once, rows, 5)
    tuning = tuned(twice, rows, 2)
    torch.rand(3)
    tuning.train_until(5)
    assert difference(once, twice) == 0
    assert tuning.steps == 5
    other = fresh(architecture)
    tuned(other, rows, 5, seed=1)
    assert difference(once, other) > 0


def test_every_row_is_used_once_per_pass():
    tuning = tuned(fresh(), tiny.rows(10))
    used = [index for step in range(5) for index in tuning.batch_of(step)]
    assert sorted(used[:10]) == sorted(used[10:]) == list(range(10))
    assert used[:10] != used[10:]


def test_few_rows_are_one_batch():
    tuning = tuned(fresh(), tiny.rows(3), batch_size=16)
    assert tuning.batch_size == 3
    assert sorted(tuning.batch_of(7)) == [0, 1, 2]


def test_adapter_alone_is_trained():
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    adapted = add_lora(model, Lora(rank=2), seed=0)
    tuned(adapted, tiny.rows(4), 2)
    after = {name.replace(".base_layer", ""): value for name, value in adapted.get_base_model().state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any(float(value.abs().max()) > 0 for name, value in after.items() if "lora_B" in name)


def test_loss_that_is_not_finite_is_refused():
    model = fresh()
    next(model.parameters()).data[:] = float("nan")
    with pytest.raises(NumericalError, match=r"loss of step 1 is not finite .* 0\.01.*Lower the learning rate"):
        tuned(model, tiny.rows(4), 1)


class Letters:
    """A template in which every character is a token."""

    def without_limit(self):
        return self

    def encode(self, question, answer, row):
        return Encoded(tuple(map(ord, question + answer)), max(len(question), 1), row)


def test_rows_are_learned_with_their_question_or_without():
    rows = [Row("1", "ab?", "cd", "g"), Row("2", "", "text", "g")]
    text, answer = (encode_rows(rows, Letters(), max_length=9, answer_only=only) for only in (False, True))
    assert ["".join(map(chr, item.targets)) for item in text] == ["b?cd", "ext"]
    assert ["".join(map(chr, item.targets)) for item in answer] == ["cd", "ext"]


def test_long_rows_are_cut_and_empty_ones_left_out():
    rows = [Row("1", "ab?", "cdef", "g"), Row("2", "long question?", "x", "g")]
    cut = encode_rows(rows, Letters(), max_length=5, answer_only=True)
    assert [("".join(map(chr, item.ids)), item.row) for item in cut] == [("ab?cd", "1")]
    assert len(encode_rows(rows, Letters(), max_length=5, answer_only=False)) == 2

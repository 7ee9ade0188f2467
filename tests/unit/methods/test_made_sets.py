"""Sets that methods create: refusals, and alternates that the target writes once per seed and that are cached."""

import json

import pytest
import tokenizers
import transformers
from tiny_steps import tiny_model

from expunge.config.recipe import Prompt
from expunge.data.refusals import refusals
from expunge.data.sets import Row, Sets, make_set
from expunge.data.templates import Template
from expunge.errors import IncompatibleError
from expunge.methods import altpo
from expunge.methods.altpo import AltPO
from expunge.methods.base import Preparation
from expunge.methods.idkdpo import IdkDPO
from expunge.methods.idksft import IdkSFT

WORDS = ["<pad>", "<s>", "</s>", "who", "what", "she", "he", "wrote", "books", "sang", "songs", "?", "."]
ROWS = [Row("forget/0", "who wrote ?", "she wrote books .", "a"), Row("forget/1", "what sang ?", "he sang .", "b")]


@pytest.fixture
def template():
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="."))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    return Template(tokenizer, Prompt(style="plain", question="{question} ", answer="{answer} "), max_length=20)


@pytest.fixture
def prepare(template, tmp_path):
    def make(target=tiny_model, rows=ROWS, seed=0, batch_tokens=1000, folder=tmp_path):
        return Preparation(
            sets=Sets("test", make_set("forget", rows), None),
            template=template,
            folder=folder,
            seed=seed,
            open_target=target,
            batch_tokens=batch_tokens,
            fine_tune=lambda name, rows, train: None,
        )

    return make


def fail_to_load():
    raise AssertionError("the target was loaded again")


def scripted(monkeypatch, answer):
    """Make the target write the token ids `answer(index of the call, index of the prompt)`."""
    calls = []

    def generate(model, prompts, **settings):
        calls.append(len(prompts))
        return [answer(len(calls) - 1, i) for i in range(len(prompts))]

    monkeypatch.setattr(altpo, "generate", generate)
    return calls


@pytest.mark.parametrize(("method", "name"), [(IdkSFT(), "refusal"), (IdkDPO(), "preferred")])
def test_every_forget_question_is_refused(prepare, method, name):
    sets = method.prepare(prepare())
    assert list(sets) == [name]
    assert [row.question for row in sets[name]] == [row.question for row in ROWS]
    assert {row.answer for row in sets[name]} <= set(refusals())
    assert sets[name].hash == method.prepare(prepare())[name].hash


def test_alternates_are_paired_with_their_forget_rows(prepare, tmp_path):
    sets = AltPO(num_alternates=3, max_new_tokens=4).prepare(prepare())
    forget, preferred = sets["forget"], sets["preferred"]
    assert [row.id for row in forget] == [f"forget/{i}#{k}" for i in range(2) for k in range(3)]
    for a, b in zip(forget, preferred, strict=True):
        assert (a.id, a.question, a.group) == (b.id, b.question, b.group)
        assert a.answer != b.answer
    assert {row.answer for row in forget} == {row.answer for row in ROWS}
    assert len({row.answer for row in preferred}) > 2
    cached = json.loads((tmp_path / "alternates.json").read_text())
    assert [text for row in ROWS for text in cached["alternates"][row.id]] == [row.answer for row in preferred]


def test_alternates_are_written_once(prepare):
    method = AltPO(num_alternates=2, max_new_tokens=4)
    first = method.prepare(prepare())
    again = method.prepare(prepare(target=fail_to_load))
    assert again["preferred"].rows == first["preferred"].rows


def test_different_settings_or_seeds_write_new_alternates(prepare):
    first = AltPO(num_alternates=2, max_new_tokens=4).prepare(prepare())
    for method, seed in [
        (AltPO(num_alternates=2, max_new_tokens=4), 1),
        (AltPO(num_alternates=2, max_new_tokens=5), 0),
    ]:
        with pytest.raises(AssertionError, match="loaded again"):
            method.prepare(prepare(target=fail_to_load, seed=seed))
    other = AltPO(num_alternates=2, max_new_tokens=4).prepare(prepare(seed=1))
    assert other["preferred"].rows != first["preferred"].rows


def test_alternates_do_not_depend_on_the_batch(prepare, tmp_path):
    method = AltPO(num_alternates=3, max_new_tokens=4)
    wide = method.prepare(prepare(folder=tmp_path / "a"))
    narrow = method.prepare(prepare(folder=tmp_path / "b", batch_tokens=1))
    assert wide["preferred"].rows == narrow["preferred"].rows


def test_the_target_is_asked_with_question_and_answer_and_its_reply_begun(prepare, template):
    class Recording:
        def prompt_ids(self, question, lead_in):
            return template.prompt_text(question) + lead_in

    text = "".join(altpo._prompt(Recording(), ROWS[0]))
    assert "who wrote ?" in text
    assert "she wrote books ." in text
    assert text.endswith("Alternate answer:")


def test_unusable_alternates_are_sampled_again(prepare, monkeypatch):
    """First attempt: empty, the true answer ('he sang .' for row 1), too long; the second attempt is usable."""
    truth, long, good = [6, 9, 12], [3] * 30, [5, 9, 10]
    first = [[], good, truth, long]  # rows 0, 0, 1, 1
    calls = scripted(monkeypatch, lambda call, i: first[i] if call == 0 else good)
    sets = AltPO(num_alternates=2).prepare(prepare())
    assert calls == [4, 3]
    assert [row.answer for row in sets["preferred"]] == ["she sang songs"] * 4


def test_a_row_with_one_usable_alternate_repeats_it(prepare, monkeypatch):
    scripted(monkeypatch, lambda call, i: [5, 9, 10 - i] if call == 0 and i in (0, 2) else [])
    sets = AltPO(num_alternates=2).prepare(prepare())
    assert [row.answer for row in sets["preferred"]] == ["she sang songs"] * 2 + ["she sang books"] * 2


def test_a_target_that_writes_nothing_is_refused(prepare, monkeypatch, tmp_path):
    scripted(monkeypatch, lambda call, i: [])
    with pytest.raises(IncompatibleError, match="no usable alternate answer to row forget/0 in 20 attempts"):
        AltPO().prepare(prepare())
    assert not (tmp_path / "alternates.json").exists()


def test_plain_text_has_no_alternates(prepare):
    with pytest.raises(IncompatibleError, match="book/1 is plain text"):
        AltPO().prepare(prepare(rows=[Row("book/1", "", "she sang .", "a")]))

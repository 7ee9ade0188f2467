"""Familiarity: which passages are asked, what the probe returns, and the two metrics by hand."""

import json

import numpy as np
import pytest
import torch
import transformers

from expunge.benchmarks.familiarity import Familiarity as Benchmark
from expunge.config.recipe import Prompt
from expunge.data.anchors.passages import Passage, anchor_passages
from expunge.data.sets import Row, RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import DataError
from expunge.metrics.familiarity import familiarity_completion, familiarity_probability
from expunge.modeling.load import train_tokenizer
from expunge.probes.familiarity import first_tokens, measure_familiarity
from expunge.probes.requests import TokenScores

ANCHORS = {"Zorblatt": ["Thomas"], "Quem": ["Milton"], "Old Mira": ["Nora"]}
TEXT = "one two three Zorblatt four five Zorblatt six seven eight nine Zorblatt went to\nQuem and “Quem” ten Old Mira"


def test_passages_break_off_before_anchors_that_they_do_not_name():
    """With 3 words before: the second Zorblatt is named in its prompt, the third is not; the quoted Quem does not
    begin a word of its own, and is named anyway; 'Old Mira' is one anchor."""
    assert anchor_passages([TEXT], ANCHORS, num=99, prompt_words=3) == [
        Passage("one two three", "Zorblatt"),
        Passage("seven eight nine", "Zorblatt"),
        Passage("Zorblatt went to", "Quem"),
        Passage("and “Quem” ten", "Old Mira"),
    ]


def test_passages_are_drawn_by_seed_and_stay_in_order():
    text = " ".join(f"w{i} x y Zorblatt" for i in range(40))
    draws = [anchor_passages([text], ANCHORS, num=10, prompt_words=3, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    numbers = [int(passage.prompt.split()[0][1:]) for passage in draws[0]]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10


def test_no_passage_where_too_few_words_stand_before():
    assert anchor_passages(["Zorblatt one two Quem"], ANCHORS, num=9, prompt_words=4) == []


def test_completion_by_hand():
    """Named and told: no hit. Named and not told: hit. Nothing named: no hit."""
    told = [{"Quem"}, {"Quem"}, set()]
    named = [{"Quem"}, {"Quem", "Zorblatt"}, []]
    assert familiarity_completion(told, named).tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="argument 2"):
        familiarity_completion(told, named[:1])


def test_probability_by_hand():
    """0.25 + 0.5 and 0: sums of probabilities, of as many tokens as there are."""
    assert familiarity_probability([np.log([0.25, 0.5]), []]) == pytest.approx([0.75, 0.0])


@pytest.fixture(scope="module")
def template():
    tokenizer = train_tokenizer([TEXT] * 3, vocab_size=400, max_length=64)
    return Template(tokenizer, Prompt(style="plain", question="{question}", answer="{answer}"), max_length=64)


@pytest.fixture(scope="module")
def model(template):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(template.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def test_first_tokens_leave_out_what_other_text_has(template):
    tokenizer = template.tokenizer
    tokens = first_tokens(ANCHORS, tokenizer)
    assert tokenizer.convert_tokens_to_ids("ĠZorblatt") in tokens
    assert tokens == sorted(set(tokens))
    fewer = first_tokens(ANCHORS, tokenizer, general=["one Zorblatt two"])
    assert set(tokens) - set(fewer) == {tokenizer.convert_tokens_to_ids("ĠZorblatt")}


def test_the_probe_equals_whole_logits_one_passage_at_a_time(model, template):
    passages = [Passage("one two three", "Zorblatt"), Passage("seven", "Zorblatt"), Passage("one " * 40, "Quem")]
    was_training = model.train().training
    found = measure_familiarity(model, passages, ANCHORS, template, max_new_tokens=4, batch_tokens=16)
    assert model.training == was_training
    tokens = first_tokens(ANCHORS, template.tokenizer)
    model.eval()
    for number in (0, 1):
        ids = torch.tensor([template.tokenizer("<s>" + passages[number].prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            expected = model(ids).logits[0, -1].log_softmax(-1)[tokens].numpy()
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=0
            )
        assert found.logp[number] == pytest.approx(expected, abs=1e-5)
        assert found.completions[number] == template.tokenizer.decode(written[0, ids.shape[1] :])
    assert found.completions[2] is None, "the prompt is longer than the model's context"
    assert len(found.logp[2]) == 0


def sets():
    forget = RowSet("forget", (Row("f/0", "", TEXT, "f"),))
    retain = RowSet("retain", (Row("r/0", "", "one two three four five six seven eight nine went to", "r"),))
    return Sets("test", forget, retain)


@pytest.fixture
def benchmark(tmp_path):
    place = tmp_path / "anchors.json"
    place.write_text(json.dumps(ANCHORS))
    return Benchmark(anchors=str(place), num=4, prompt_words=3, piece_characters=20)


def log(probabilities):
    return TokenScores(np.log(probabilities))


def test_benchmark_numbers_by_hand(benchmark):
    """Hits 1, 0, 0 of three (one without completion); anchor probabilities 1/2 and 1/4;
    perplexity 4: every token of every piece has probability 1/4."""
    plan = benchmark.plan(sets())
    passages = list(plan.sets["passages"])
    assert [request.answer for request in plan.score[:4]] == [" Zorblatt", " Zorblatt", " Quem", " Old Mira"]
    scores = {("passages", 0, "answer"): log([0.5]), ("passages", 1, "answer"): log([0.5, 0.5])}
    for name in ("forget_text", "retain_text"):
        scores |= {(name, i, "answer"): log([0.25] * 5) for i in range(len(plan.sets[name]))}
    generations = {("passages", i, "answer"): text for i, text in enumerate(["saw Zorblatt", "nobody", "Zorblatt ran"])}
    assert "Zorblatt" in passages[2].question
    rows = benchmark.rows(plan, scores, generations)
    found = benchmark.headlines(rows, None, resamples=50, seed=0).headlines
    assert found["familiarity"].point == pytest.approx(1 / 3)
    assert (found["familiarity"].n, found["familiarity"].n_missing) == (3, 1)
    assert found["anchor_probability"].point == pytest.approx((0.5 + 0.25) / 2)
    assert found["forget_perplexity"].point == pytest.approx(4)
    assert found["retain_perplexity"].low == pytest.approx(4)
    assert found["retain_perplexity"].better == "lower"


def test_perplexity_by_document(benchmark):
    """Tokens of probability 1/2 in one book and 1/8 in the other: perplexity 2 and 8, and 4 of both, as both have as
    many tokens. A set of one document, and one of too many to read, has no numbers by document."""
    books = (Row("r/0", "", "one two three four", "alice"), Row("r/1", "", "five six seven one", "pan"))
    many = tuple(Row(f"f/{i}", "", f"{TEXT} {i}", f"page {i}") for i in range(21))
    for forget in (sets().forget, RowSet("forget", many)):
        plan = benchmark.model_copy(update={"num": 99}).plan(Sets("test", forget, RowSet("retain", books)))
        scores = {("forget_text", i, "answer"): log([0.25]) for i in range(len(plan.sets["forget_text"]))}
        scores |= {("retain_text", 0, "answer"): log([1 / 2] * 3), ("retain_text", 1, "answer"): log([1 / 8] * 3)}
        found = benchmark.headlines(benchmark.rows(plan, scores, {}), None, resamples=20, seed=0)
        assert {name: value.point for name, value in found.metrics.items()} == pytest.approx(
            {"retain_text/alice/perplexity": 2, "retain_text/pan/perplexity": 8}
        )
        assert found.headlines["retain_perplexity"].point == pytest.approx(4)
        assert {value.better for value in found.metrics.values()} == {"lower"}


def test_benchmark_without_any_score_says_what_is_missing(benchmark):
    plan = benchmark.plan(sets())
    found = benchmark.headlines(benchmark.rows(plan, {}, {}), None, resamples=50, seed=0).headlines
    assert {name for name, value in found.items() if value.point is None} == set(found)
    assert "context" in found["familiarity"].needs


def test_benchmark_without_a_passage(benchmark):
    with pytest.raises(DataError, match="200 words before it"):
        benchmark.model_copy(update={"prompt_words": 200}).plan(sets())

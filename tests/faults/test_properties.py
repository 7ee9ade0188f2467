"""Properties that hold for any text, row, record and score; examples are generated and the same in every run."""

import csv
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from expunge import strict_yaml
from expunge.config.recipe import Prompt, Source
from expunge.data.sources.rows import load_rows
from expunge.data.templates import Template
from expunge.errors import UserError, printable
from expunge.metrics.kolmogorov_smirnov import ks_test
from expunge.metrics.memorization import exact_memorization, extraction_strength, verbatim_memorization
from expunge.metrics.probability import probability
from expunge.metrics.proportions import wilson
from expunge.metrics.rouge import rouge_1_f1, rouge_1_recall, rouge_l_f1, rouge_l_recall
from expunge.metrics.separation import membership_auc
from expunge.modeling.load import load_tokenizer
from expunge.records import Stage, TrainPoint, Value
from expunge.records.format import format_value
from expunge.rundir import read_record, write_record

quick = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
texts = st.text(max_size=60)
"""Any text without halves of characters."""
filled = texts.filter(str.strip)
numbers = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@quick
@given(st.lists(st.tuples(filled, filled), min_size=1, max_size=5), st.booleans())
def test_rows_are_read_as_they_were_written(pairs, escaped):
    """JSON Lines and CSV give back every question and answer, with any characters in them."""
    with tempfile.TemporaryDirectory() as folder:
        lines, table = Path(folder) / "a.jsonl", Path(folder) / "a.csv"
        rows = [json.dumps({"question": q, "answer": a}, ensure_ascii=escaped) for q, a in pairs]
        lines.write_text("\n".join(rows), encoding="utf-8", newline="")
        assert [(r.question, r.answer) for r in load_rows(Source(path=str(lines)), "forget")] == pairs
        with table.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("question", "answer"), *pairs])
        assert [(r.question, r.answer) for r in load_rows(Source(path=str(table)), "forget")] == pairs


@quick
@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".jsonl.gz"]))
@example(b"\x1f\x8b", ".csv")
@example(b"PAR1PAR1", ".parquet")
def test_any_bytes_give_rows_or_one_error_about_the_file(content, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        path.write_bytes(content)
        try:
            assert all(row.answer.strip() for row in load_rows(Source(path=str(path)), "forget"))
        except UserError as error:
            names_the_file = str(path) in str(error)
        else:
            names_the_file = True
        assert names_the_file
        assert path.read_bytes() == content


@quick
@given(plain)
def test_yaml_gives_back_plain_data(value):
    text = yaml.safe_dump(value, allow_unicode=True)
    assert strict_yaml.load(text) == value


@quick
@given(st.text(alphabet="ab:-[]{}&*!<>|'\"%@`#,? \n\t019.~", max_size=60))
def test_any_text_is_yaml_or_one_error(text):
    message = "none"
    try:
        strict_yaml.load(text)
    except yaml.YAMLError as error:
        message = strict_yaml.explain(error)
    assert message


@pytest.fixture(scope="module")
def templates(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    return [Template(tokenizer, Prompt(style=style), max_length=4096) for style in ("chat", "plain")]


@quick
@given(question=filled, answer=filled)
@example(question="Answer:", answer="Answer: Question: Answer:")
@example(question="</s>", answer="</s><s>")
@example(question="\U0010fffd", answer="\U0010fffd")
@example(question="Who?\u200d", answer="\u200d👩")
def test_answer_mask_covers_the_answer(question, answer, templates):
    """The learned tokens, without the end token, decode to the answer, and no token of the question is learned.

    The tokenizer encodes bytes, so decoding loses nothing. Templates strip white space around a text.
    """
    for template in templates:
        try:
            row = template.encode(question, answer)
        except UserError:
            # A text that the template cannot hold is refused, never cut.
            continue
        learned = template.tokenizer.decode(row.ids[row.answer_start :])
        assert answer.strip() in learned
        assert len(learned) <= len(answer) + len(" ") + len("</s>")
        assert row.num_answer == len(row.ids) - row.answer_start


TEXT_METRICS = [rouge_l_recall, rouge_1_recall, rouge_l_f1, rouge_1_f1, verbatim_memorization]


@quick
@given(answer=texts, generation=texts)
def test_text_metrics_stay_in_their_range(answer, generation):
    for metric in TEXT_METRICS:
        (score,) = metric([answer], [generation])
        assert math.isnan(score) or 0 <= score <= 1


losses = st.lists(st.floats(0, 1e6), min_size=1, max_size=20)


@quick
@given(forget=losses, holdout=losses)
def test_metrics_of_losses_stay_in_their_range(forget, holdout):
    assert np.all((probability(forget) >= 0) & (probability(forget) <= 1))
    auc = membership_auc(forget, holdout)
    assert 0 <= auc <= 1
    assert auc + membership_auc(holdout, forget) == pytest.approx(1)
    assert 0 <= ks_test(forget, holdout).pvalue <= 1
    assert ks_test(forget, forget).pvalue == pytest.approx(1)


@quick
@given(st.integers(1, 10**6), st.floats(0, 1))
def test_interval_of_a_proportion_contains_it(trials, share):
    low, high = wilson(share * trials, trials)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1


@quick
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_memorization_stays_in_its_range(hits):
    for metric in (exact_memorization, extraction_strength):
        (score,) = metric([hits])
        assert 0 <= score <= 1


@quick
@given(plain, texts, numbers.map(abs))
def test_records_are_read_as_they_were_written(value, name, seconds):
    stage = Stage(name=name, fingerprint="abc", output={"value": value}, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage.json"
        write_record(path, stage)
        assert read_record(path, Stage) == stage
    point = TrainPoint(step=1, epoch=seconds, loss=seconds, lr=seconds, terms={name: seconds})
    assert TrainPoint.model_validate_json(point.model_dump_json()) == point


@quick
@given(st.floats(), st.floats(), st.floats())
def test_any_value_has_a_text(point, low, high):
    assert format_value(Value(point=point, low=low, high=high))


@quick
@given(st.text(alphabet=st.characters(), max_size=60))
def test_printable_text_is_stable_and_can_be_encoded(text):
    shown = printable(text)
    assert printable(shown) == shown
    shown.encode("utf-8")
    assert all(character in "\n\t" or ord(character) >= 32 for character in shown)

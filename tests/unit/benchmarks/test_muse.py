"""The benchmark muse on a made-up folder: what it asks, what it makes of the answers, what it refuses."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from expunge.benchmarks.muse.benchmark import FORGET, FORGET_QA, HOLDOUT, RETAIN_QA, VERBMEM, Muse
from expunge.config.recipe import Measure, Prompt, Scratch
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import DataError, IncompatibleError
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.probes.requests import TokenScores
from expunge.runs.evaluator import Evaluator
from expunge.runs.results import save_result

NOTHING = Sets("", RowSet("forget", ()), None)


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


@pytest.fixture
def folder(tmp_path):
    """Three rows per split: lines of JSON, a list of strings, a list of objects under the former name, and Parquet."""
    root = tmp_path / "towns"
    for subset in ("verbmem", "knowmem", "privleak"):
        (root / subset).mkdir(parents=True)
    story = [{"prompt": f"Town {i} lies on", "gt": f"the river number {i} and has a red bridge"} for i in range(3)]
    (root / "verbmem/forget.jsonl").write_text(lines(story))
    asked = [{"question": f"Where is town {i}?", "answer": f"On river {i}"} for i in range(3)]
    (root / "knowmem/forget_qa.jsonl").write_text(lines(asked))
    (root / "knowmem/forget_qa_icl.jsonl").write_text(lines([{"question": "Who?", "answer": "Me"}] * 2))
    (root / "knowmem/retain2_qa.json").write_text(json.dumps(asked))
    pq.write_table(
        pa.Table.from_pylist([{"question": "What?", "answer": "This"}]),
        root / "knowmem/retain_qa_icl-00000-of-00001.parquet",
    )
    (root / "privleak/forget.json").write_text(json.dumps([f"Town {i} has a red bridge." for i in range(3)]))
    (root / "privleak/holdout.jsonl").write_text(lines([{"text": f"Hill {i} has no bridge."} for i in range(3)]))
    return root


def measured(benchmark, forget, holdout, **generations):
    """Rows of a model whose token log-probabilities are all -value, and whose generations are given by set."""
    plan = benchmark.plan(NOTHING)
    scores = {
        (name, i, "answer"): TokenScores(np.full(5, -value))
        for name, values in ((FORGET, forget), (HOLDOUT, holdout))
        for i, value in enumerate(values)
        if value is not None
    }
    texts = {r.key: generations.get(r.set, "nothing") for r in plan.generate}
    return benchmark.rows(plan, scores, {key: text for key, text in texts.items() if text is not None})


KNOWN, NEW = [1.0, 1.1, 1.2], [2.0, 2.1, 2.2]


def test_prompts(folder):
    """Texts go on as they stand; questions follow up to num_examples examples and end in 'Answer: '."""
    plan = Muse(path=str(folder), num_examples=1).plan(NOTHING)
    asked = {r.key: r for r in plan.generate}
    assert len(asked) == 9
    assert all(r.raw for r in [*plan.generate, *plan.score])
    assert asked[VERBMEM, 0, "answer"].question == "Town 0 lies on"
    assert asked[VERBMEM, 0, "answer"].max_new_tokens == 128
    who = asked[FORGET_QA, 1, "answer"]
    assert who.question == "Question: Who?\nAnswer: Me\n\nQuestion: Where is town 1?\nAnswer: "
    assert who.max_new_tokens == 32
    assert asked[RETAIN_QA, 1, "answer"].question.startswith("Question: What?\nAnswer: This\n\nQuestion: Where")
    assert [r.answer for r in plan.score][2:4] == ["Town 2 has a red bridge.", "Hill 0 has no bridge."]
    assert {r.question for r in plan.score} == {""}
    ten = Muse(path=str(folder)).plan(NOTHING).generate
    assert sum("Who?\nAnswer: Me\n\nQuestion: Who?" in r.question for r in ten) == 3


def test_only_the_chosen_parts_are_read(folder):
    (folder / "privleak/holdout.jsonl").unlink()
    plan = Muse(path=str(folder), parts=["knowmem"], num_examples=0, limit=2).plan(NOTHING)
    assert {name: len(rows) for name, rows in plan.sets.items()} == {FORGET_QA: 2, RETAIN_QA: 2}
    some = Muse(path=str(folder), parts=["knowmem"])
    numbers = some.headlines(measured(some, [], []), None, 0, 0)
    assert list(numbers.headlines) == ["knowmem_forget", "knowmem_retain"]
    assert numbers.metrics == {}


def test_memorisation_in_percent(folder):
    """'On river 1' against 'On river 0', 1, 2: two of three words for rows 0 and 2, all for row 1: F1 2/3, 1, 2/3, mean
    7/9. What comes after the next question begins does not count. A continuation of 'the river' (2 words) against 9:
    P = 1, R = 2/9, F1 = 4/11."""
    rows = measured(
        Muse(path=str(folder)),
        KNOWN,
        NEW,
        **{FORGET_QA: "On river 1\nQuestion: Where is town 9?", RETAIN_QA: "", VERBMEM: "the river"},
    )
    numbers = Muse().headlines(rows, None, 50, 0).headlines
    assert numbers["knowmem_forget"].point == pytest.approx(100 * 7 / 9)
    assert numbers["knowmem_retain"].point == 0
    assert numbers["verbmem_forget"].point == pytest.approx(100 * 4 / 11)
    assert numbers["knowmem_forget"].no_interval == "3 groups of rows, at least 5 are needed"
    assert [numbers[name].better for name in ("knowmem_forget", "knowmem_retain")] == ["lower", "higher"]
    assert {value.unit for value in numbers.values() if value.point is not None} == {"%"}


def test_privleak_against_a_retain_model(folder):
    """Every forget text better known than every holdout text: MUSE's AUC is 0, so privleak is -100 whatever the
    retain model says. A retain model against itself: 0. A retain model at 1/2 and a model with AUC 1: +100."""
    muse = Muse(path=str(folder))
    target, even = measured(muse, KNOWN, NEW), measured(muse, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    over = measured(muse, NEW, KNOWN)
    for rows, retain_model, right in [(target, even, -100), (even, even, 0), (over, even, 100)]:
        assert muse.headlines(rows, retain_model, 0, 0).headlines["privleak"].point == pytest.approx(right)
    assert muse.headlines(target, None, 0, 0).metrics["privleak/auc"].point == 1


def test_privleak_without_a_retain_model_says_what_it_needs(folder):
    value = Muse().headlines(measured(Muse(path=str(folder)), KNOWN, NEW), None, 0, 0).headlines["privleak"]
    assert value.point is None
    assert "model.retain_model" in value.needs


@pytest.mark.parametrize(("auc", "a_r"), [("news", 0.4772), ("books", 0.5393), (0.25, 0.25)])
def test_a_published_auc_stands_in_only_when_asked_for(folder, auc, a_r):
    """A_u = 1/2, so privleak = (1/2 - A_r) / A_r."""
    rows = measured(Muse(path=str(folder)), [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    value = Muse(retrain_auc=auc).headlines(rows, None, 0, 0).headlines["privleak"]
    assert value.point == pytest.approx(100 * (0.5 - a_r) / a_r)
    assert "as published" in value.how


def test_what_could_not_be_scored_is_counted(folder):
    rows = measured(Muse(path=str(folder)), [None, *KNOWN[:2]], NEW, **{VERBMEM: None})
    numbers = Muse(retrain_auc="news").headlines(rows, None, 0, 0).headlines
    assert (numbers["privleak"].n, numbers["privleak"].n_missing) == (5, 1)
    assert (numbers["verbmem_forget"].point, numbers["verbmem_forget"].n_missing) == (None, 3)


def test_a_retain_model_with_other_texts_or_tokens_is_refused(folder):
    muse = Muse(path=str(folder))
    rows = measured(muse, KNOWN, NEW)
    muse.check_retain_model(rows, rows, {"vocab": 9}, {"vocab": 9})
    with pytest.raises(IncompatibleError, match="vocabulary of 8"):
        muse.check_retain_model(rows, rows, {"vocab": 9}, {"vocab": 8})
    (folder / "privleak/holdout.jsonl").write_text(lines([{"text": "Another hill."}] * 3))
    with pytest.raises(IncompatibleError, match="rows of privleak/holdout are not"):
        muse.check_retain_model(rows, measured(muse, KNOWN, NEW), {}, {})


@pytest.fixture(scope="module")
def tiny():
    tokenizer = train_tokenizer(["Town 0 lies on the river number 0 and has a red bridge."] * 20, 300, 64)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=64)
    return build_scratch(scratch, tokenizer, seed=0), Template(tokenizer, Prompt(), 64)


def test_on_a_model_with_a_short_context(folder, tiny, tmp_path):
    """Two examples leave no room in 64 tokens for an answer: not scored, and counted. The texts that continuations are
    compared with are cut to as many tokens. Only a stored result of this benchmark serves as a retain model."""
    model, template = tiny
    muse = Muse(path=str(folder), verbmem_tokens=4)
    text = "Town 2 has a red bridge. " * 40
    (folder / "privleak/forget.json").write_text(json.dumps([text, "Town 1 has a bridge.", "Town 2."]))
    (folder / "knowmem/forget_qa_icl.jsonl").write_text(lines([{"question": text, "answer": "Me"}]))
    evaluator = Evaluator(
        NOTHING,
        template,
        Measure(batch_tokens=4096, bootstrap=0),
        cache=tmp_path / "cache",
        folder=tmp_path / "run",
    )
    got = evaluator.measure(model, muse, "it")
    by_set = {name: [row for row in got.rows if row["set"] == name] for name in (VERBMEM, FORGET_QA, RETAIN_QA, FORGET)}
    assert [row["rouge_l_f1"] for row in by_set[FORGET_QA]] == [None] * 3
    assert None not in [row["rouge_l_f1"] for row in by_set[RETAIN_QA]]
    assert [row["min_k"] is None for row in by_set[FORGET]] == [True, False, False]
    whole = "the river number 0 and has a red bridge"
    assert 0 < len(by_set[VERBMEM][0]["answer"]) < len(whole)
    assert whole.startswith(by_set[VERBMEM][0]["answer"])
    result = evaluator.record(got, muse, role="retain", model="it", retain=None)
    rows, settings = muse.read_stored(tmp_path / "run/results/retain-muse.json")
    muse.check_retain_model(got.rows, rows, got.settings, settings)
    assert math.isclose(muse.headlines(got.rows, rows, 0, 0).headlines["privleak"].point, 0, abs_tol=1e-9)
    (tmp_path / "run/samples/retain-muse.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="missing or damaged"):
        muse.read_stored(tmp_path / "run/results/retain-muse.json")
    foreign = result.model_copy(update={"benchmark": "tofu"})
    save_result(tmp_path / "run", "other", foreign, [{"set": "forget", "index": 0}])
    with pytest.raises(DataError, match="result of the benchmark 'tofu'"):
        muse.read_stored(tmp_path / "run/results/other.json")


def test_other_examples_are_another_measurement(folder):
    """They change every answer to a question, and stand in no set that is measured."""
    before = Muse(path=str(folder)).plan(NOTHING).facts
    (folder / "knowmem/forget_qa_icl.jsonl").write_text(lines([{"question": "Who?", "answer": "You"}]))
    after = Muse(path=str(folder)).plan(NOTHING).facts
    assert before["knowmem/forget_qa_icl"] != after["knowmem/forget_qa_icl"]
    assert before["knowmem/retain_qa_icl"] == after["knowmem/retain_qa_icl"]


def test_files_of_a_folder_are_part_of_a_runs_name(folder):
    files = Muse(path=str(folder)).files()
    assert len(files) == 7
    assert all(file.startswith(str(folder)) for file in files)
    assert Muse().files() == []


def test_rows_of_one_group_are_drawn_together(folder):
    rows = [{"question": f"Q{i}?", "answer": "On river 1", "group": 7} for i in range(3)]
    (folder / "knowmem/forget_qa.jsonl").write_text(lines(rows))
    found = measured(Muse(path=str(folder)), KNOWN, NEW)
    assert {row["group"] for row in found if row["set"] == FORGET_QA} == {"7"}
    assert Muse().headlines(found, None, 50, 0).headlines["knowmem_forget"].low is None


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("verbmem/forget.jsonl", None, r"has no verbmem/forget\.jsonl"),
        ("verbmem/forget.jsonl", "", "is empty"),
        ("knowmem/forget_qa.jsonl", '{"question": "Q?", "answer": "A"}\n{"question": "Q?"}', r"line 2 has no 'answer'"),
        ("knowmem/forget_qa.jsonl", '{"question": "Q?", "answer": "A"}\n{"question', r"line 2 is not valid JSON"),
        ("knowmem/forget_qa.jsonl", '{"question": "Q?", "answer": 3}', r"line 1 has no text in 'answer'"),
        ("privleak/forget.json", '["a", 3]', r"row 1 is a string"),
        ("privleak/forget.json", '["a", " "]', r"row 2 has no 'text'"),
        ("privleak/forget.json", "[]", "has no rows in privleak/forget"),
        ("privleak/forget.json", '["a"', "not valid JSON"),
        ("privleak/forget.jsonl", '{"text": "a"}', "more than once: forget.jsonl, forget.json"),
    ],
)
def test_bad_files_are_named(folder, file, content, message):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(DataError, match=message):
        Muse(path=str(folder)).plan(NOTHING)


def test_bad_places(folder):
    with pytest.raises(DataError, match="does not exist"):
        Muse(path=str(folder / "x/y")).plan(NOTHING)
    with pytest.raises(DataError, match="revision has no effect"):
        Muse(path=str(folder), revision="main").plan(NOTHING)


@pytest.mark.parametrize(
    "settings",
    [
        {"parts": []},
        {"parts": ["scal"]},
        {"parts": ["privleak"], "verbmem_tokens": 3},
        {"parts": ["verbmem"], "num_examples": 3},
        {"parts": ["verbmem"], "retrain_auc": "news"},
        {"parts": ["privleak"], "stem": True},
        {"retrain_auc": 0.0},
        {"retrain_auc": "papers"},
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        Muse(**settings)

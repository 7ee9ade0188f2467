"""MT-Bench on made-up questions, with a tiny model and a judge behind a real local service."""

import json
import re

import pytest
from judge_server import JudgeServer

from expunge.benchmarks.mt_bench.benchmark import HEADLINE, OTHER_JUDGE, MtBench, _is_published_judge, parse_rating
from expunge.benchmarks.mt_bench.judge import Judge
from expunge.benchmarks.mt_bench.prompts import OWN_PROMPTS, PLACEHOLDERS
from expunge.benchmarks.mt_bench.questions import load_material
from expunge.config.recipe import Measure, Prompt, Scratch
from expunge.data.sets import RowSet, Sets
from expunge.data.templates import Template
from expunge.errors import DataError, UserError
from expunge.modeling.load import build_scratch, train_tokenizer
from expunge.runs.evaluator import Evaluator, without_text

NOTHING = Sets("", RowSet("forget", ()), None)
ASKED = [
    {"question_id": 1, "category": "writing", "turns": ["Write a line.", "Make it rhyme."]},
    {"question_id": 2, "category": "math", "turns": ["What is 2 + 2?", "And plus {answer}?"]},
    {"question_id": 3, "category": "stem", "turns": ["What is rain?", "And snow?"], "reference": ["Water.", "Ice."]},
]
RIGHT = [{"question_id": 2, "choices": [{"index": 0, "turns": ["It is 4.", "It is 5."]}]}]


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


@pytest.fixture
def folder(tmp_path):
    """FastChat's layout; each judge's prompt is its name and the places that it needs."""
    root = tmp_path / "mt"
    (root / "reference_answer").mkdir(parents=True)
    (root / "question.jsonl").write_text(lines(ASKED))
    (root / "reference_answer/gpt-4.jsonl").write_text(lines(RIGHT))
    prompts = [
        {
            "name": name,
            "system_prompt": "Be fair.",
            "prompt_template": f"{name}|" + "|".join(f"{{{p}}}" for p in places),
        }
        for name, places in PLACEHOLDERS.items()
    ]
    (root / "judge_prompts.jsonl").write_text(lines([{"name": "pair-v2"}, *prompts]))
    return root


@pytest.fixture
def serve():
    servers = []

    def start(behave):
        servers.append(JudgeServer(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def tiny():
    tokenizer = train_tokenizer(["Question: What is rain? Write a line. Answer: Make it rhyme."] * 20, 300, 96)
    scratch = Scratch(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, vocab_size=300, max_length=96)
    return build_scratch(scratch, tokenizer, seed=0), Template(tokenizer, Prompt(), 96)


@pytest.fixture
def evaluate(folder, tiny, tmp_path):
    def run(server=None, cache=None, **settings):
        judge = server and Judge(
            model="j", url=server.url, store=str(tmp_path / "kept"), parallel=1, attempts=2, backoff_seconds=0.0
        )
        benchmark = MtBench(**{"path": str(folder), "judge_model": judge, "max_new_tokens": 4, **settings})
        got = Evaluator(NOTHING, tiny[1], Measure(batch_tokens=4096), cache=cache).measure(tiny[0], benchmark, "it")
        return got.rows, benchmark.headlines(got.rows, None, 100, 0), got.settings

    return run


def test_without_a_judge_the_answers_are_there_and_nothing_is_rated(evaluate):
    rows, numbers, _ = evaluate()
    assert [(row["set"], row["group"]) for row in rows] == [(f"turn_{t}", g) for g in "123" for t in (1, 2)]
    assert all(isinstance(row["answer"], str) and row["rating"] is None for row in rows)
    assert list(numbers.headlines) == [HEADLINE]
    assert numbers.headlines[HEADLINE].point is None
    assert "a judge" in numbers.headlines[HEADLINE].needs
    assert "not judged" in numbers.headlines[HEADLINE].needs


def test_mean_over_turns_and_its_parts(evaluate, serve):
    """First turns get 8, second ones 4, those of the writing question 10 instead: (8 + 4 + 10 + 10 + 8 + 4) / 6."""

    def rate(_, text):
        return "[[10]]" if "Write a line." in text else "So. Rating: [[4]]" if "multi-turn" in text else "[[8]]"

    rows, numbers, _ = evaluate(serve(rate))
    value = numbers.headlines[OTHER_JUDGE]
    assert list(numbers.headlines) == [OTHER_JUDGE], "no published number may ever stand beside another judge's"
    assert value.point == pytest.approx(44 / 6)
    assert (value.n, value.n_missing, value.better) == (6, 0, "higher")
    assert (value.low, value.no_interval) == (None, "3 groups of rows, at least 5 are needed")
    assert "judge j" in value.how
    parts = {key: value.point for key, value in numbers.metrics.items()}
    turns = {"turn_1/rating": 26 / 3, "turn_2/rating": 18 / 3}
    assert parts == pytest.approx({**turns, "writing/rating": 10, "math/rating": 6, "stem/rating": 6})
    hidden = [without_text(row) for row in rows]
    assert MtBench(judge_model=Judge(model="j")).headlines(hidden, None, 0, 0).metrics.keys() == numbers.metrics.keys()


def test_the_judge_sees_question_answer_and_right_answer(evaluate, serve):
    """A question with a category that has right answers is judged beside them; a note in another category is not one.
    What looks like a place in a question stays as it is."""
    server = serve(lambda n, text: "[[5]]")
    rows, _, _ = evaluate(server)
    answer = {(row["group"], row["set"]): row["answer"] for row in rows}
    sent = [body["messages"][1]["content"] for _, _, body in server.requests]
    assert f"single-v1|Write a line.|{answer['1', 'turn_1']}" in sent
    assert f"single-math-v1|What is 2 + 2?|{answer['2', 'turn_1']}|It is 4." in sent
    both = f"What is 2 + 2?|{answer['2', 'turn_1']}|And plus {{answer}}?|{answer['2', 'turn_2']}"
    assert f"single-math-v1-multi-turn|{both}|It is 4.|It is 5." in sent
    assert sum(text.startswith("single-v1-multi-turn|What is rain?|") for text in sent) == 1


def test_second_questions_follow_first_answers(folder):
    """Each second request holds the first question and the answer that was given to it, and the category's
    temperature."""
    asked = []

    class Session:
        def generate(self, requests):
            asked.extend(requests)
            return {r.key: f"answer to {r.question}" for r in requests if "2 + 2" not in r.question}

    benchmark = MtBench(path=str(folder))
    rows = benchmark.run(Session(), benchmark.plan(NOTHING))
    second = {r.question: r for r in asked if r.what == "turn_2"}
    assert second["And snow?"].turns == (("What is rain?", "answer to What is rain?"),)
    assert "And plus {answer}?" not in second, "a question that fills the context has no answer to follow"
    assert [row["answer"] is None for row in rows] == [False, False, True, True, False, False]
    assert {r.question: r.temperature for r in asked if r.what == "turn_1"} == {
        "Write a line.": 0.7,
        "What is 2 + 2?": 0.0,
        "What is rain?": 0.1,
    }
    assert {r.max_new_tokens for r in asked} == {1024}
    assert len({r.seed for r in asked}) == len(asked)


def test_answers_are_drawn_with_the_seed(evaluate):
    def written(seed):
        return [row["answer"] for row in evaluate(seed=seed)[0]]

    three, four = written(3), written(4)
    assert written(3) == three
    assert three[0] != four[0]
    assert three[2] == four[2], "mathematics is answered greedily"


@pytest.mark.parametrize("rubbish", ["no rating", "[[0]]", "[[11]]", None, "Rating: [[five]]"])
def test_a_turn_without_a_rating_is_not_scored(evaluate, serve, rubbish, capsys):
    _, numbers, _ = evaluate(serve(lambda n, text: rubbish if "rain" in text else "[[7]]"))
    value = numbers.headlines[OTHER_JUDGE]
    assert (value.point, value.n, value.n_missing) == (7, 4, 2)
    assert numbers.metrics["stem/rating"].point is None
    assert "no reply" in numbers.metrics["stem/rating"].needs
    assert "2 of 6 turns have no rating" in capsys.readouterr().err


def test_prompts_that_fill_the_context_are_counted(evaluate, serve, folder):
    (folder / "question.jsonl").write_text(lines([{**ASKED[0], "turns": ["Write a line. " * 60, "And?"]}, ASKED[1]]))
    server = serve(lambda n, text: "[[7]]")
    value = evaluate(server)[1].headlines[OTHER_JUDGE]
    assert (value.n, value.n_missing) == (2, 2)
    assert len(server.requests) == 2


def test_a_killed_judging_goes_on_and_a_finished_one_is_not_repeated(evaluate, serve, tmp_path):
    server = serve(lambda n, text: "[[6]]" if n <= 4 else 503)
    with pytest.raises(UserError, match="no usable reply"):
        evaluate(server, tmp_path / "cache")
    before = len(server.requests)
    server.behave = lambda n, text: "[[6]]"
    rows, numbers, _ = evaluate(server, tmp_path / "cache")
    assert len(server.requests) - before == 2
    assert numbers.headlines[OTHER_JUDGE].point == 6
    assert evaluate(server, tmp_path / "cache")[0] == rows
    assert len(server.requests) - before == 2


def test_the_published_name_needs_the_published_judge():
    """Another judge, address, temperature or prompt makes the number another one."""
    theirs = {"model": "gpt-4", "url": "https://api.openai.com/v1"}
    assert _is_published_judge(Judge(**theirs))
    for other in ({"model": "gpt-4o"}, {"url": "http://localhost:8000/v1"}, {"temperature": 0.5}):
        assert not _is_published_judge(Judge(**{**theirs, **other}))
    assert not _is_published_judge(Judge(model="gpt-4"))
    row = {"set": "turn_1", "id": "math/1/1", "group": "1", "rating": 7.0}
    for published, name in ((True, HEADLINE), (False, OTHER_JUDGE)):
        numbers = MtBench(judge_model=Judge(**theirs)).headlines([{**row, "published": published}], None, 0, 0)
        assert list(numbers.headlines) == [name]


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Good. Rating: [[8]]", 8.0),
        ("[[7.5]] and then [[2]]", 7.5),
        ("Rating: [6]", 6.0),
        ("see [1]. Rating: [[9]]", 9.0),
        ("[[10]]", 10.0),
        ("8/10", None),
        ("[[-3]]", None),
        ("", None),
    ],
)
def test_rating(reply, rating):
    assert parse_rating(reply) == rating


def test_the_hubs_columns_and_our_prompts(tmp_path):
    """The hub's file has other names for the same; without a judge's prompts ours are used, with all places."""
    file = tmp_path / "questions.jsonl"
    file.write_text(lines([{"prompt_id": 9, "category": "math", "prompt": ["a?", "b?"], "reference": ["c", "d"]}]))
    material = load_material(str(file))
    question = material.questions[0]
    assert (question.id, question.turns, question.references) == ("9", ("a?", "b?"), ("c", "d"))
    for answers in (("x1",), ("x1", "x2")):
        system, user = material.to_judge(question, answers)
        assert "[[4]]" in system["content"]
        assert all(answer in user["content"] for answer in answers)
        assert not re.search(r"\{\w+\}", user["content"])
    for name, prompt in OWN_PROMPTS.items():
        assert set(re.findall(r"\{(\w+)\}", prompt.template)) == set(PLACEHOLDERS[name])


def test_anything_that_changes_the_question_changes_the_measurement(folder):
    found = {MtBench(path=str(folder)).plan(NOTHING).facts["material"]}
    for file in ("question.jsonl", "reference_answer/gpt-4.jsonl", "judge_prompts.jsonl"):
        place = folder / file
        place.write_text(place.read_text().replace("rain", "hail").replace("4", "6").replace("fair", "just"))
        found.add(MtBench(path=str(folder)).plan(NOTHING).facts["material"])
    assert len(found) == 4
    assert len(MtBench(path=str(folder)).files()) == 3
    assert MtBench(path=str(folder)).plan(NOTHING).facts["without_right_answer"] == []
    (folder / "reference_answer/gpt-4.jsonl").unlink()
    assert MtBench(path=str(folder)).plan(NOTHING).facts["without_right_answer"] == ["2"]


def test_a_few_questions_of_each_category(folder):
    more = [{**row, "question_id": row["question_id"] + 10} for row in ASKED]
    (folder / "question.jsonl").write_text(lines([*ASKED, *more]))
    assert [q.id for q in load_material(str(folder), per_category=1).questions] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("question.jsonl", None, "does not exist"),
        ("question.jsonl", "", "is empty"),
        ("question.jsonl", "[]", "contains no questions"),
        ("question.jsonl", lines(ASKED) + "\n{", r"line 4 is not valid JSON"),
        (
            "question.jsonl",
            lines([*ASKED, {**ASKED[0], "question_id": 4, "turns": ["a"]}]),
            "line 4: a question needs two",
        ),
        ("question.jsonl", lines([*ASKED, ASKED[0]]), "line 4: duplicate question id 1"),
        ("question.jsonl", '{"question_id": 1, "turns": ["a", "b"]}', "line 1 needs a question_id and a category"),
        ("reference_answer/gpt-4.jsonl", '{"question_id": 2, "choices": []}', r"line 1 is not an answer in FastChat's"),
        ("reference_answer/gpt-4.jsonl", lines([{**RIGHT[0], "choices": [{"turns": ["4"]}]}]), "line 1: the right"),
        ("reference_answer/other.jsonl", lines(RIGHT), "by 2 models"),
        ("judge_prompts.jsonl", '{"name": "pair-v2"}', "lacks the judge's prompt single-v1"),
        ("judge_prompts.jsonl", '{"name": "single-v1", "system_prompt": "s"}', "line 1: the prompt single-v1 needs"),
        (
            "judge_prompts.jsonl",
            '{"name": "single-v1", "system_prompt": "s", "prompt_template": "{question}"}',
            "line 1: the prompt single-v1 lacks the placeholder answer",
        ),
    ],
)
def test_bad_files_are_named(folder, file, content, message):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(DataError, match=message):
        MtBench(path=str(folder)).plan(NOTHING)

"""MT-Bench's published questions, right answers and judge's prompts, as FastChat has them."""

import pytest

from expunge.benchmarks.mt_bench.benchmark import MtBench
from expunge.benchmarks.mt_bench.questions import PUBLISHED, load_material
from expunge.data.sets import RowSet, Sets


@pytest.fixture(scope="module")
def folder(shared):
    place = shared / "data/mt_bench"
    if not place.is_dir():
        pytest.skip(f"{place} does not exist")
    return place


def test_eighty_questions_of_eight_categories(folder):
    """Ten each; thirty have right answers, which are all of mathematics, reasoning and coding."""
    plan = MtBench(path=str(folder)).plan(Sets("", RowSet("forget", ()), None))
    assert len(plan.generate) == 80
    assert plan.facts == {"material": PUBLISHED, "without_right_answer": []}
    material = load_material(str(folder))
    assert sum(bool(question.references) for question in material.questions) == 30
    temperatures = [request.temperature for request in plan.generate]
    assert [temperatures.count(value) for value in (0.0, 0.1, 0.7)] == [40, 20, 20]


def test_the_judge_is_asked_in_the_published_words(folder):
    material = load_material(str(folder))
    race = next(question for question in material.questions if question.id == "101")
    system, user = material.to_judge(race, ("Third place.",))
    assert system["content"] == "You are a helpful assistant."
    for text in (
        "[[rating]]",
        "[Question]",
        race.turns[0],
        "your current position is now second place",
        "Third place.",
    ):
        assert text in user["content"]
    system, user = material.to_judge(race, ("Third place.", "Last place."))
    assert "second question" in system["content"]
    assert user["content"].rstrip().endswith("<|The End of Assistant A's Conversation with User|>")
    blog = next(question for question in material.questions if question.id == "81")
    assert "Reference" not in material.to_judge(blog, ("A.", "B."))[1]["content"]


def test_a_few_questions_are_not_the_published_ones(folder):
    assert load_material(str(folder), per_category=1).fingerprint != PUBLISHED

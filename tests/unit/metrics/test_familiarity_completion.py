"""Familiarity of completions, counted by hand."""

import pytest

from expunge.metrics.familiarity import familiarity_completion


def test_only_anchors_that_the_prompt_does_not_contain_are_hits():
    """An anchor of the prompt: no hit. One of the prompt and a new one: hit. No anchor: no hit."""
    prompt_anchors = [{"Quem"}, {"Quem"}, set()]
    completion_anchors = [{"Quem"}, {"Quem", "Zorblatt"}, []]
    assert familiarity_completion(prompt_anchors, completion_anchors).tolist() == [0.0, 1.0, 0.0]


def test_unequal_numbers_of_prompts_and_completions_are_rejected():
    with pytest.raises(ValueError, match="argument 2"):
        familiarity_completion([{"Quem"}, set()], [{"Quem"}])

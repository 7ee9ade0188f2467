"""Selection of passages that end just before an anchor."""

from expunge.data.anchors.passages import Passage, anchor_passages

ANCHORS = {"Zorblatt": ["Thomas"], "Quem": ["Milton"], "Old Mira": ["Nora"]}
TEXT = "one two three Zorblatt four five Zorblatt six seven eight nine Zorblatt went to\nQuem and “Quem” ten Old Mira"


def test_passages_end_before_anchors_that_they_do_not_name():
    """With 3 words before the anchor: the prompt of the second Zorblatt names it, that of the third does not.

    The quoted Quem does not begin at a word boundary, and its prompt names it anyway; 'Old Mira' is one anchor.
    """
    assert anchor_passages([TEXT], ANCHORS, num=99, prompt_words=3) == [
        Passage("one two three", "Zorblatt"),
        Passage("seven eight nine", "Zorblatt"),
        Passage("Zorblatt went to", "Quem"),
        Passage("and “Quem” ten", "Old Mira"),
    ]


def test_passages_are_sampled_by_seed_and_keep_their_order():
    text = " ".join(f"w{i} x y Zorblatt" for i in range(40))
    samples = [anchor_passages([text], ANCHORS, num=10, prompt_words=3, seed=seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    numbers = [int(passage.prompt.split()[0][1:]) for passage in samples[0]]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10


def test_anchors_after_too_few_words_give_no_passage():
    assert anchor_passages(["Zorblatt one two Quem"], ANCHORS, num=9, prompt_words=4) == []
